"""Where the page runs, read from the environment."""

from pathlib import Path

import pytest

from demo.environment import STRANGERS, Limits, SettingError, read_environment, runs_root

SPACE = {"SPACE_ID": "somebody/studio"}


@pytest.mark.parametrize(
    ("variables", "place", "is_public"),
    [
        ({}, "own machine", False),
        ({"VGGRPO_PUBLIC": "1"}, "own machine", True),
        (SPACE, "Space", True),
        (SPACE | {"SPACES_ZERO_GPU": "true"}, "ZeroGPU", True),
        (SPACE | {"SPACES_ZERO_GPU": "0"}, "Space", True),
    ],
)
def test_the_place_decides_who_is_trusted(variables, place, is_public):
    read = read_environment(variables)
    assert (read.place, read.is_public) == (place, is_public)
    assert read.limits == (STRANGERS if is_public else Limits())
    assert read.lends_gpu == (place == "ZeroGPU")


def test_where_nothing_can_be_trained_it_says_so():
    assert "nothing can be trained here" in read_environment(SPACE | {"SPACES_ZERO_GPU": "true"}).why_no_training
    assert "switched off" in read_environment({"VGGRPO_FINETUNE": "off"}).why_no_training
    assert read_environment(SPACE).why_no_training == ""


def test_the_port_is_gradios_or_that_of_other_hosts():
    assert read_environment({"PORT": "8080"}).port == 8080
    assert read_environment({"PORT": "8080", "GRADIO_SERVER_PORT": "7861"}).port == 7861
    assert read_environment({}).port is None
    with pytest.raises(SettingError, match="PORT must be a port number, not 'http'"):
        read_environment({"PORT": "http"})


def test_runs_go_where_it_was_asked_else_to_lasting_storage_else_to_a_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("demo.environment.LASTING", tmp_path / "data")
    monkeypatch.setattr("demo.environment.tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    named = read_environment(SPACE | {"VGGRPO_RUNS": "/elsewhere"})
    assert runs_root(named) == Path("/elsewhere")
    assert runs_root(named, asked=tmp_path / "asked") == tmp_path / "asked"
    assert runs_root(read_environment({})) == tmp_path / "tmp" / "vggrpo-runs"
    assert runs_root(read_environment(SPACE)) == tmp_path / "tmp" / "vggrpo-runs"
    (tmp_path / "data").mkdir()
    assert runs_root(read_environment(SPACE)) == tmp_path / "data" / "vggrpo-runs"
    # A file where the folder should be stands for one that cannot be written; root may write anywhere.
    (tmp_path / "data" / "vggrpo-runs").rmdir()
    (tmp_path / "data").rmdir()
    (tmp_path / "data").write_text("")
    assert runs_root(read_environment(SPACE)) == tmp_path / "tmp" / "vggrpo-runs"
    (tmp_path / "tmp" / "vggrpo-runs").rmdir()
    (tmp_path / "tmp" / "vggrpo-runs").write_text("")
    fallback = runs_root(read_environment(SPACE))
    assert fallback.is_dir()
    assert fallback.parent == tmp_path / "tmp"
