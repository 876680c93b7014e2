"""What is left when something breaks half-way. Oracle: the file tree and its bytes before the break."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vggrpo.runtime.checkpoint_folder import KEPT_CHECKPOINTS
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import RUN_MARKER, atomic_folder
from vggrpo.runtime.integrity import verify_files
from vggrpo.runtime.training import MAX_SKIPPED, LoopConfig, Step, TrainingLoop


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_failed_run_takes_the_folders_it_made_with_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "runs" / "today" / "first"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_leaves_folders_that_others_use(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "runs" / "first"):  # noqa: PT012
        (tmp_path / "runs" / "neighbour").mkdir()
        raise RuntimeError
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["neighbour"]


def test_the_old_run_comes_back_when_the_new_one_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with atomic_folder(out) as building:
        (building / RUN_MARKER).write_text("old")
    before = tree(tmp_path)
    replace = Path.replace
    moves = []

    def fails_on_the_second(self: Path, target: Path) -> Path:
        moves.append(target)
        if len(moves) == 2:
            raise OSError(5, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails_on_the_second)
    with pytest.raises(OSError, match="Input/output"), atomic_folder(out) as building:
        (building / RUN_MARKER).write_text("new")
    assert tree(tmp_path) == before


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    out = tmp_path / "empty"
    out.mkdir()
    with atomic_folder(out) as building:
        (building / RUN_MARKER).write_text("{}")
    assert tree(tmp_path) == {f"empty/{RUN_MARKER}": b"{}"}


@pytest.mark.parametrize(
    "content",
    ["", '{"files": {"a": {"bytes": 1', '{"weights": {}}', '{"files": [1, 2]}', '{"files": {"a": {"bytes": 1}}}', "[]"],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    manifest = tmp_path / "MANIFEST.json"
    manifest.write_text(content)
    with pytest.raises(UserError, match=r"MANIFEST\.json .*check it out again") as caught:
        verify_files(tmp_path, manifest)
    assert "\n" not in str(caught.value)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def regress(model: nn.Module, step: Step) -> dict[str, Tensor]:
    return {"loss": model(torch.randn(8, 3, generator=step.generator)).square().mean()}


def steps_logged(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_died_before_its_first_checkpoint_starts_its_log_again(tmp_path: Path) -> None:
    """The death is real: the loss raises in step 3, as an out-of-memory error would."""
    config = LoopConfig(steps=4, learning_rate=0.01, checkpoint_every=10)
    model = make_model()

    def dies(step: Step) -> dict[str, Tensor]:
        if step.index == 2:
            raise MemoryError
        return regress(model, step)

    with pytest.raises(MemoryError):
        TrainingLoop({"net": model}, config, tmp_path).run(dies, resume=False)
    assert steps_logged(tmp_path) == [1, 2]
    model = make_model()
    TrainingLoop({"net": model}, config, tmp_path).run(lambda step: regress(model, step), resume=False)
    assert steps_logged(tmp_path) == [1, 2, 3, 4]


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    model = make_model()
    config = LoopConfig(steps=5, learning_rate=0.01, checkpoint_every=1)
    TrainingLoop({"net": model}, config, tmp_path).run(lambda step: regress(model, step), resume=False)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step-{step:06d}" for step in range(5 - KEPT_CHECKPOINTS + 1, 6)]


def test_no_readable_checkpoint_is_said_and_nothing_is_deleted(tmp_path: Path) -> None:
    model = make_model()
    config = LoopConfig(steps=3, learning_rate=0.01, checkpoint_every=1)
    TrainingLoop({"net": model}, config, tmp_path).run(lambda step: regress(model, step), resume=False)
    for path in tmp_path.glob("checkpoints/*/state.json"):
        path.write_text("{")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"No checkpoint in .* can be read"):
        TrainingLoop({"net": model}, config, tmp_path).run(lambda step: regress(model, step), resume=True)
    assert tree(tmp_path) == before


def test_bad_steps_stop_a_run_only_when_they_come_in_a_row(tmp_path: Path) -> None:
    """MAX_SKIPPED − 1 bad steps, one good one, and again: the run goes on to its end."""
    model = make_model()
    config = LoopConfig(steps=2 * MAX_SKIPPED, learning_rate=0.01)

    def losses(step: Step) -> dict[str, Tensor]:
        good = regress(model, step)["loss"]
        return {"loss": good if step.index % MAX_SKIPPED == MAX_SKIPPED - 1 else good * torch.inf}

    result = TrainingLoop({"net": model}, config, tmp_path).run(losses, resume=False)
    assert result.finished
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum(row["skipped"] for row in rows) == 2 * (MAX_SKIPPED - 1)


def test_a_finished_run_that_is_resumed_does_nothing(tmp_path: Path) -> None:
    """What lets an export be repeated that was killed after the last step."""
    config = LoopConfig(steps=2, learning_rate=0.01)
    model = make_model()
    TrainingLoop({"net": model}, config, tmp_path).run(lambda step: regress(model, step), resume=False)
    before = tree(tmp_path)
    fresh = make_model()
    result = TrainingLoop({"net": fresh}, config, tmp_path).run(lambda step: regress(fresh, step), resume=True)
    assert result.finished
    assert result.steps_done == 2
    assert torch.equal(fresh.weight, model.weight)
    assert tree(tmp_path) == before
