"""Nothing is ever half-written, and nothing of the user's is ever replaced."""

import hashlib
import json
import tempfile
from pathlib import Path

import pytest

from vggrpo.runtime import files
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.integrity import sha256_of, verify_files


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rewards.json"
    files.atomic_write_text(path, "old")

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", disk_full)
    with pytest.raises(OSError, match="No space"):
        files.atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["rewards.json"]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "first"
    with files.atomic_folder(out) as building:
        (building / files.RUN_MARKER).write_text("{}")
        assert not out.exists()
    assert names_in(out) == [files.RUN_MARKER]
    assert names_in(out.parent) == ["first"]


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "first"
    with pytest.raises(KeyboardInterrupt), files.atomic_folder(out) as building:  # noqa: PT012
        (building / "video.mp4").write_bytes(b"half")
        raise KeyboardInterrupt
    assert names_in(tmp_path) == []


def test_an_earlier_run_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "first"
    out.mkdir()
    (out / files.RUN_MARKER).write_text("old")
    with pytest.raises(RuntimeError), files.atomic_folder(out):
        raise RuntimeError
    assert (out / files.RUN_MARKER).read_text() == "old"
    with files.atomic_folder(out) as building:
        (building / files.RUN_MARKER).write_text("new")
    assert (out / files.RUN_MARKER).read_text() == "new"


def test_somebody_elses_folder_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter-1.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds other files"), files.atomic_folder(out):
        pass
    assert (out / "chapter-1.tex").read_text() == "years of work"


def test_an_output_that_is_a_file_or_lies_under_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"), files.atomic_folder(tmp_path / "file"):
        pass
    with pytest.raises(UserError, match="is a file"), files.atomic_folder(tmp_path / "file" / "run"):
        pass
    assert names_in(tmp_path) == ["file"]


def test_a_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: tests often run as root, who may write everywhere."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(UserError, match=r"not writable \(Permission denied\); choose another") as caught:
        files.require_writable(tmp_path / "new" / "run")
    assert str(tmp_path) in str(caught.value)
    assert names_in(tmp_path) == []


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder with one weight file, and a manifest that lists it."""
    content = bytes(range(256)) * 100
    (tmp_path / "model.safetensors").write_bytes(content)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"files": {"model.safetensors": entry}}))
    return tmp_path


def test_untouched_weights_pass(weights: Path) -> None:
    verify_files(weights, weights / "MANIFEST.json")


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("damage", ["truncated", "one bit", "missing", "no manifest"])
def test_damaged_weights_are_named(weights: Path, damage: str) -> None:
    path = weights / "model.safetensors"
    content = path.read_bytes()
    named = "model.safetensors"
    if damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "one bit":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "missing":
        path.unlink()
    else:
        (weights / "MANIFEST.json").unlink()
        named = "MANIFEST.json"
    with pytest.raises(UserError, match=named) as caught:
        verify_files(weights, weights / "MANIFEST.json")
    assert "\n" not in str(caught.value)
