"""The README tells the truth: its links lead somewhere, its commands exist."""

import re
import shlex
from pathlib import Path

import pytest

from vggrpo.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shell_lines() -> list[str]:
    """Commands of the README's bash blocks, without their comments."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    return [line.split(" #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_every_relative_link_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(targets) >= 5
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_anchor_is_a_heading() -> None:
    headings = {
        re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-")
        for h in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings


def test_the_tree_names_files_that_are_there() -> None:
    tree = README.split("```\napp.py")[1].split("```")[0]
    package = ""
    for line in ("app.py" + tree).splitlines():
        for name in re.findall(r"(?<!\S)([\w.]+(?:\.py|/))(?=\s{2,}|$)", line):
            package = name if not line.startswith(" ") else package
            path = ROOT / name if not line.startswith(" ") else ROOT / package / name
            assert path.exists(), f"{path} is in the README only"


def test_no_placeholder_is_left() -> None:
    assert "<!--" not in README


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("bash ")])
def test_every_script_is_there(line: str) -> None:
    script, command = line.split()[1:3]
    assert re.search(rf"^  {command}\)", (ROOT / script).read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("line", [line for line in shell_lines() if " -m vggrpo " in line])
def test_every_command_and_option_exists(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Also behind ``accelerate launch``, whose own options come before."""
    words = shlex.split(line.split(" -m vggrpo ")[1])
    first_option = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    assert main([*words[:first_option], "--help"]) == 0
    shown = capsys.readouterr().out
    for option in (word for word in words if word.startswith("--")):
        assert option in shown
