"""Result files: what is written comes back, names what it was made from, and never hides a NaN."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vggrpo.evaluation.results import Result, read_result, take_provenance, weights_digest, write_result
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.integrity import sha256_of


def a_result(**content: object) -> Result:
    provenance = take_provenance(
        "python -m vggrpo evaluate robustness",
        preset="tiny",
        device=torch.device("cpu"),
        seconds=12.34,
        seeds={"first_world": 3},
        weights={"vae": "0123456789ab"},
    )
    return Result(kind="robustness", provenance=provenance, content=content)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "robustness.json"
    result = a_result(levels=[0.0, 0.5], rows=[{"value": None, "reason": "no clips"}])
    write_result(path, result)
    assert read_result(path, kind="robustness") == result


def test_a_file_says_what_made_it(tmp_path: Path) -> None:
    path = tmp_path / "robustness.json"
    write_result(path, a_result())
    content = json.loads(path.read_text())
    assert content["command"] == "python -m vggrpo evaluate robustness"
    assert content["date"].endswith("+00:00")
    assert content["device"].endswith(f"{torch.get_num_threads()} thread")
    assert content["versions"]["torch"] == torch.__version__
    assert content["seeds"] == {"first_world": 3}
    assert (content["format"], content["kind"], content["seconds"]) == (1, "robustness", 12.3)


def test_a_nan_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "robustness.json"
    with pytest.raises(ValueError, match="JSON compliant"):
        write_result(path, a_result(value=float("nan")))
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "does not exist"),
        ("{", "cannot be read as a result file"),
        ("[]", "is not a result file"),
        ('{"format": 1, "kind": "robustness"}', "is not a result file"),
    ],
)
def test_what_is_no_result_file_is_named(tmp_path: Path, text: str | None, complaint: str) -> None:
    path = tmp_path / "file.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        read_result(path, kind="robustness")


def test_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "robustness.json"
    write_result(path, a_result())
    with pytest.raises(UserError, match="holds 'robustness' in format 1, not 'cost'"):
        read_result(path, kind="cost")


def test_a_digest_names_the_weights_and_not_their_place(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        (folder / "vae").mkdir(parents=True)
        save_file({"weight": torch.arange(3.0)}, folder / "vae" / "model.safetensors")
        (folder / "config.json").write_text(folder.name)
    assert weights_digest(first) == weights_digest(second)
    assert weights_digest(first / "vae" / "model.safetensors") == sha256_of(first / "vae" / "model.safetensors")[:12]
    save_file({"weight": torch.arange(3.0) + 1e-3}, second / "vae" / "model.safetensors")
    assert weights_digest(first) != weights_digest(second)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no weights"):
        weights_digest(tmp_path)
