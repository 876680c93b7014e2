"""The line that a result file says it was made by. Oracle: parsed again, it gives the same command."""

import shlex
from pathlib import Path

import pytest

from vggrpo.cli.command_line import shown_command
from vggrpo.cli.commands import Compare
from vggrpo.cli.main import _parse


@pytest.mark.parametrize(
    "line",
    [
        "bench reward",
        "bench reward --preset tiny-debug --repeats 3 --videos 2",
        "bench phases --random-weights --scale 8",
    ],
)
def test_the_shown_line_is_the_typed_one(line: str) -> None:
    command = _parse(shlex.split(line))
    assert shown_command(command, words=" ".join(line.split()[:2])) == f"python -m vggrpo {line}"


def test_where_results_go_is_not_told(tmp_path: Path) -> None:
    command = Compare(
        out=tmp_path, adapter=tmp_path / "secret" / "tuned", count=3, json=True, reward_file=(Path("a b.py"),)
    )
    assert shown_command(command, words="compare") == (
        "python -m vggrpo compare --reward-file 'a b.py' --adapter tuned --count 3"
    )


def test_a_path_below_the_working_directory_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = Compare(out=tmp_path, adapter=tmp_path / "runs" / "tuned")
    assert shown_command(command, words="compare").endswith("--adapter runs/tuned")
