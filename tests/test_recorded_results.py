"""Results that ship: readable, drawn, photographed, and saying nothing of the machine's folders.

What is not recorded yet is no mistake: About then names the command that makes it.
"""

import json
from pathlib import Path

import pytest

from demo.evidence_text import FigureText
from demo.viewers.evidence import FIGURES, read_section
from vggrpo.evaluation.results import RESULTS

RECORDED = [text for text in FIGURES if (RESULTS / f"{text.name}.json").exists()]


def test_nothing_else_lies_there() -> None:
    known = {f"{text.name}{ending}" for text in FIGURES for ending in (".json", ".md", ".png")}
    assert {path.name for path in RESULTS.glob("*")} <= known


@pytest.mark.parametrize("text", RECORDED, ids=lambda text: text.name)
def test_a_recorded_result_is_drawn_and_photographed(text: FigureText) -> None:
    section = read_section(text, results=RESULTS)
    assert section.content is not None
    picture = RESULTS / f"{text.name}.png"
    assert picture.is_file(), f"python -m demo.pictures {text.name}"
    assert picture.stat().st_size < 1_000_000


@pytest.mark.parametrize("text", RECORDED, ids=lambda text: text.name)
def test_a_recorded_result_names_what_made_it_and_no_folder(text: FigureText) -> None:
    written = (RESULTS / f"{text.name}.json").read_text(encoding="utf-8")
    content = json.loads(written)
    assert content["command"].startswith("python -m vggrpo ")
    assert "--record" in content["command"]
    assert content["weights"]
    home = str(Path.home())
    assert home not in written
    assert "/tmp/" not in written
