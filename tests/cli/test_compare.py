"""``compare`` and ``examples --pairs`` on the debug preset. Oracles: ``generate`` of the same seed, scipy."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.demo.make_adapter import write_adapter
from vggrpo.cli.examples import EXAMPLES, PAIRS, adapter_name
from vggrpo.runtime import run_folder
from vggrpo.worlds import sample_scene, vocabulary

PROMPTS = ("a red sphere on a grey tiled floor, the camera orbits left", "a blue cube on a teal striped floor")
DEBUG = ("--preset", "tiny-debug")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapters") / "steady")


def test_compare_leaves_the_rewards_of_both_sides_and_their_difference(
    run: Callable, adapter: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n\n".join(PROMPTS) + "\n")
    out = tmp_path / "made" / "comparison"
    shown = run("compare", *DEBUG, "--adapter", adapter, "--prompts", prompts, "--seed", 4, "--out", out, "--json")
    assert shown.code == 0, shown.err
    content = run_folder.read_json(out / "comparison.json")
    assert content["prompts"] == list(PROMPTS)
    assert content["seeds"] == [4, 5]
    assert content["sides"] == {"base": {"label": "Base model"}, "tuned": {"label": "steady"}}
    result = json.loads(shown.out.splitlines()[-1])
    assert result["paired"] == content["paired"]
    for side, extra in (("base", ()), ("tuned", ("--adapter", adapter))):
        single = ("generate", *DEBUG, "--prompt", PROMPTS[1], "--seed", 5, *extra, "--out", tmp_path / side)
        assert run(*single).code == 0
        alone = run_folder.read_json(tmp_path / side / "rewards.json")["motion_smoothness"]["value"]
        assert content[side]["motion_smoothness"][1] == pytest.approx(alone, rel=2e-3)
    base, tuned = (np.array(content[side]["motion_smoothness"]) for side in ("base", "tuned"))
    expected = stats.ttest_rel(tuned, base).confidence_interval(0.95)
    found = content["paired"]["motion_smoothness"]
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), rel=1e-3, abs=1e-6)


def test_compare_draws_held_out_worlds_and_takes_two_adapters(run: Callable, adapter: Path, tmp_path: Path) -> None:
    both = ("--adapter", adapter, "--other-adapter", adapter / "pytorch_lora_weights.safetensors")
    shown = run("compare", *DEBUG, *both, "--count", 3, "--seed", 20, "--out", tmp_path / "c")
    assert shown.code == 0, shown.err
    assert "smoothness" in shown.out  # a narrow terminal breaks the line
    content = run_folder.read_json(tmp_path / "c" / "comparison.json")
    assert content["prompts"] == [sample_scene(seed).caption for seed in (20, 21, 22)]
    difference = content["paired"]["motion_smoothness"]  # the same adapter twice
    assert (difference["mean"], difference["low"], difference["high"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["--adapter"]),
        ({"adapter": "nowhere", "count": 2}, ["nowhere", "does not exist"]),
        ({"adapter": "ADAPTER"}, ["--prompts", "--count"]),
        ({"adapter": "ADAPTER", "count": 2, "prompts": "prompts.txt"}, ["exactly one"]),
        ({"adapter": "ADAPTER", "prompts": "nowhere.txt"}, ["nowhere.txt", "does not exist"]),
        ({"adapter": "ADAPTER", "prompts": "EMPTY"}, ["holds no prompt"]),
        ({"adapter": "ADAPTER", "prompts": "BINARY"}, ["UTF-8"]),
        ({"adapter": "ADAPTER", "count": 0}, ["0 prompts"]),
        ({"adapter": "ADAPTER", "count": 2, "batch": 0}, ["batch of 0"]),
        ({"adapter": "PICKLE", "count": 2}, ["adapter.bin"]),
        ({"adapter": "ADAPTER", "count": 2, "preset": "tinny"}, ["did you mean"]),
        ({"adapter": "ADAPTER", "count": 2, "out": "EMPTY"}, ["is a file"]),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    run: Callable, adapter: Path, tmp_path: Path, options: dict[str, object], words: list[str]
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "adapter.bin").write_bytes(b"\x80\x04\xff pickled")
    names = {
        "ADAPTER": adapter,
        "EMPTY": tmp_path / "empty.txt",
        "BINARY": tmp_path / "adapter.bin",
        "PICKLE": tmp_path / "adapter.bin",
    }
    given = {"preset": "tiny-debug", "out": tmp_path / "made"} | options
    before = sorted(tmp_path.rglob("*"))
    arguments = (word for name, value in given.items() for word in (f"--{name}", names.get(str(value), value)))
    complaint = run("compare", *arguments).complaint
    assert all(word in complaint for word in words), complaint
    assert sorted(tmp_path.rglob("*")) == before


def test_pairs_ship_thinned_without_a_recording_and_are_replaced(run: Callable, adapter: Path, tmp_path: Path) -> None:
    options = ("--pairs", *DEBUG, "--adapter", adapter, "--only", PAIRS[0].name, "--out", tmp_path)
    for _ in range(2):
        assert run("examples", *options).code == 0
    folder = tmp_path / "pairs" / PAIRS[0].name
    assert sorted(path.name for path in folder.iterdir()) == ["base", "pair.json", "tuned"]
    pair = run_folder.read_json(folder / "pair.json")
    assert (pair["prompt"], pair["seed"], pair["tuned"]) == (PAIRS[0].prompt, PAIRS[0].seed, {"label": "steady"})
    for side in ("base", "tuned"):
        side_run = run_folder.RunFolder(path=folder / side)
        assert side_run.manifest()["files"] == sorted(path.name for path in side_run.path.iterdir())
        assert side_run.geometry().depth.shape[-1] == 32
    latents = [run_folder.RunFolder(path=folder / side).latents().latents.tensor for side in ("base", "tuned")]
    assert not latents[0].equal(latents[1])


def test_pairs_need_an_adapter_and_examples_take_none(run: Callable, adapter: Path, tmp_path: Path) -> None:
    assert "--adapter" in run("examples", "--pairs", *DEBUG, "--out", tmp_path).complaint
    assert "--pairs" in run("examples", *DEBUG, "--adapter", adapter, "--out", tmp_path).complaint


def test_there_are_pairs_enough_in_the_models_words() -> None:
    assert len(PAIRS) >= 4
    assert len({pair.name for pair in PAIRS}) == len(PAIRS)
    assert all(vocabulary.unknown_words(pair.prompt) == [] for pair in PAIRS)
    seen = {(example.prompt, example.seed) for example in EXAMPLES}
    assert not seen & {(pair.prompt, pair.seed) for pair in PAIRS}


def test_an_adapter_is_called_after_its_folder_or_file(adapter: Path, tmp_path: Path) -> None:
    assert adapter_name(adapter) == adapter_name(adapter / "pytorch_lora_weights.safetensors") == "steady"
    (tmp_path / "mine.safetensors").touch()
    assert adapter_name(tmp_path / "mine.safetensors") == "mine"
