"""The evidence in About: what the commands record is read, drawn in plotly's own form, and told with its gaps.

Oracle: the made-up numbers of ``synthetic_results``, written by the library's own writer; plotly's schema.
"""

import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from demo import pictures
from demo.evidence import UnreadableResult, read_contest, read_cost, read_robustness
from demo.evidence_text import CONTEST, COST, ROBUSTNESS, TRANSITIONS
from demo.panels.about import about_figures
from demo.viewers.evidence import FIGURES, Section, duration, evidence_html, evidence_script, read_section
from tests.demo.synthetic_results import CONTESTANTS, MEASURES, a_provenance, write_results
from tests.evaluation.contest.oracle import NumberDraw, contest, contestants, models, question
from vggrpo.evaluation.contest.drive import run_contest
from vggrpo.evaluation.contest.report import report_of
from vggrpo.evaluation.results import Result, write_result


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("assets") / "results")


def figures_of(html: str) -> list[dict[str, Any]]:
    """Every figure that a page holds."""
    return [json.loads(unescape(found)) for found in re.findall(r'data-figure="([^"]*)"', html)]


def figure_of(results: Path, name: str, *, title: str) -> dict[str, Any]:
    """The figure of the panel whose title begins so."""
    section = next(read_section(text, results=results) for text in FIGURES if text.name == name)
    assert section.content is not None
    panels = [panel for group in section.content.groups for panel in group.panels]
    return next(panel.figure for panel in panels if panel.title.startswith(title))


def traces(figure: dict[str, Any], uid: str) -> dict[str, Any]:
    return next(trace for trace in figure["data"] if trace.get("uid") == uid)


def test_every_figure_is_one_of_plotlys(results: Path) -> None:
    import plotly.graph_objects as go

    html = evidence_html([read_section(text, results=results) for text in FIGURES])
    drawn = figures_of(html)
    assert len(drawn) == 2 * len(MEASURES) + 4 + 2
    for figure in drawn:
        # Raises for a property that plotly does not know, or a value that it does not take.
        go.Figure(data=figure["data"], layout=figure["layout"])


def test_a_dot_stands_at_the_change_with_its_interval(results: Path) -> None:
    figure = figure_of(results, "contest", title="Reprojection error")
    ours = traces(figure, "ours-clear-all")
    assert ours["x"] == [pytest.approx(-24.0)]
    assert ours["y"] == ["VGGRPO"]
    assert (ours["error_x"]["arrayminus"], ours["error_x"]["array"]) == ([pytest.approx(5.0)], [pytest.approx(5.0)])
    assert ours["marker"]["symbol"] == "circle"
    assert "−24.0 % (−29.0 to −19.0)" in ours["hovertext"][0]
    # The fourth contestant's change is exactly zero.
    unclear = traces(figure, "others-open-all")
    assert unclear["y"] == ["SFT on smooth<br>world clips"]
    assert (unclear["x"], unclear["marker"]["symbol"]) == ([0.0], "circle-open")


def test_shares_of_prompts_followed_change_in_points(results: Path) -> None:
    figure = figure_of(results, "contest", title="Camera as prompted")
    assert figure["layout"]["xaxis"]["ticktext"][-1].endswith(" points")
    assert "+8.0 points (+3.0 to +13.0)" in str(traces(figure, "others-clear-all")["hovertext"])


def test_the_comparison_as_it_is_made_is_drawn(tmp_path: Path) -> None:
    """A contest whose outcome is known by construction: VGGRPO has seven tenths of the base's defects."""
    import plotly.graph_objects as go

    asked = question()
    held = contest(tmp_path / "contest", asked=asked, who=contestants(vggrpo=0.7, sft=0.9))
    run_contest(held, models(NumberDraw(asked)), on_progress=lambda _done: None)
    content = report_of(held, champion="vggrpo").to_json()
    write_result(tmp_path / "contest.json", Result(kind="contest", provenance=a_provenance("contest"), content=content))
    section = read_section(CONTEST, results=tmp_path)
    assert section.content is not None
    panels = {panel.title: panel for group in section.content.groups for panel in group.panels}
    assert len(panels) == len(content["measures"])
    for panel in panels.values():
        go.Figure(data=panel.figure["data"], layout=panel.figure["layout"])
    sampson = next(panel for title, panel in panels.items() if title.startswith("Sampson"))
    dots = [trace for trace in sampson.figure["data"] if trace["uid"].startswith("ours-clear-all")]
    assert [dot["x"] for dot in dots] == [[pytest.approx(-30.0, abs=0.01)]]
    assert any("−20 % or better · <b>reached</b>" in fact.text for fact in sampson.facts)


def test_base_and_true_clips_have_no_row_of_their_own(results: Path) -> None:
    figure = figure_of(results, "contest", title="Sampson error")
    labels = figure["layout"]["yaxis"]["categoryarray"]
    assert len(labels) == len(CONTESTANTS) - 2
    assert labels[0] == "VGGRPO"


def test_what_could_not_be_judged_has_no_dot_and_says_so(results: Path) -> None:
    figure = figure_of(results, "contest", title="Sampson error")
    drawn = [
        label for trace in figure["data"] if trace["mode"] == "markers" and trace["visible"] for label in trace["y"]
    ]
    assert len(drawn) == len(CONTESTANTS) - 3
    assert not any("guidance" in label for label in drawn)
    words = traces(figure, "words-all")
    assert words["text"][-1] == "not judged"
    assert [text for text in words["text"] if "†" in text] == ["65 % †"]
    assert "no pair of frames had 20 matches" in words["hovertext"][-1]
    section = read_section(CONTEST, results=results)
    assert section.content is not None
    panel = section.content.groups[0].panels[0]
    assert "at least 120 of 128 judged (too few matches: 8)" in panel.facts[0].text
    assert "Reward guidance alone not judged (no pair of frames had 20 matches: 128)" in panel.facts[0].text
    assert "Reward guidance alone not judged" in panel.spoken


def test_the_better_side_is_shaded_and_guards_have_none(results: Path) -> None:
    def shaded(title: str) -> list[float]:
        shapes = figure_of(results, "contest", title=title)["layout"]["shapes"]
        return [shape["x1"] for shape in shapes if shape["type"] == "rect"]

    assert shaded("Sampson error")[0] < 0 < shaded("Camera smoothness")[0]
    assert shaded("Camera path length") == []


def test_only_all_prompts_are_shown_until_others_are_chosen(results: Path) -> None:
    figure = figure_of(results, "contest", title="Reprojection error")
    assert {trace["meta"]["clips"] for trace in figure["data"] if trace["visible"]} == {"all"}
    assert {trace["meta"]["clips"] for trace in figure["data"]} == {"all", "static", "dynamic"}
    assert traces(figure, "ours-clear-dynamic")["x"] == [pytest.approx(-34.0)]
    html = evidence_html([read_section(CONTEST, results=results)])
    hidden = re.findall(r'<small data-of="(\w+)"( hidden)?>', html)
    assert {clips for clips, mark in hidden if not mark} == {"all"}
    assert {clips for clips, mark in hidden if mark} == {"static", "dynamic"}
    assert re.findall(r'data-clips="(\w+)" aria-pressed="(\w+)"', html) == [
        ("all", "true"),
        ("static", "false"),
        ("dynamic", "false"),
    ]


def test_goals_are_told_as_they_came_out(results: Path) -> None:
    html = evidence_html([read_section(CONTEST, results=results)])
    assert "VGGRPO reaches 1 of 2 goals against base; not: Fréchet distance." in html
    assert "ahead of other objectives in 1 of 2 comparisons; not: Sampson error of Epipolar-DPO." in html
    assert "goal of VGGRPO: −20 % or better · <b>reached, within chance</b>" in html
    assert "goal of VGGRPO: at most 10 % above base · <b>not reached</b>" in html


def test_text_from_files_is_escaped(results: Path) -> None:
    html = evidence_html([read_section(text, results=results) for text in FIGURES])
    assert "&lt;not&gt; an unseen judge" in html
    assert "python -m vggrpo make cost &lt;fast&gt;" in html
    assert "<not>" not in html
    assert "<fast>" not in html


def test_robustness_counts_the_levels_that_either_reader_wins(results: Path) -> None:
    section = read_section(ROBUSTNESS, results=results)
    assert section.content is not None
    by_title = {panel.title: panel for panel in section.content.groups[0].panels}
    truth, own = (
        by_title["Rotation against the exact cameras"],
        by_title["Rotation against its own reading without noise"],
    )
    assert "on latents is clearly better at 2, Φ on decoded video at 0, neither at 0" in truth.facts[0].text
    assert "on latents is clearly better at 0, Φ on decoded video at 2, neither at 0" in own.facts[0].text
    line, band = traces(truth.figure, "decoded-line"), traces(truth.figure, "decoded-band")
    assert (line["x"], line["y"]) == ([0.0, 0.2, 0.4], [2.0, 4.0, 6.0])
    assert (band["x"], band["y"]) == ([0.0, 0.2, 0.4, 0.4, 0.2, 0.0], [1.5, 3.5, 5.5, 6.5, 4.5, 2.5])
    assert traces(truth.figure, "yardstick")["y"] == [4.5, 4.5]
    assert not any(trace["uid"] == "yardstick" for trace in own.figure["data"])


def test_costs_are_stacked_and_compared(results: Path) -> None:
    figure = figure_of(results, "cost", title="Time")
    assert [trace["name"] for trace in figure["data"][:-1]] == ["decode", "read geometry", "compute rewards"]
    assert figure["data"][0]["y"] == ["From video"]
    assert traces(figure, "words-all")["x"] == [3.0, 4.0]
    html = evidence_html([read_section(COST, results=results)])
    assert "75 % of the time on the clock, 75 % of the processor's, 90 % of the memory" in html


def test_what_is_not_recorded_names_its_command_and_nothing_else(tmp_path: Path) -> None:
    html = evidence_html([read_section(text, results=tmp_path) for text in FIGURES])
    for text in FIGURES:
        assert text.command in unescape(html)
    assert html.count("Not recorded yet.") == len(FIGURES)
    assert "result-plot" not in html
    assert about_figures(tmp_path) == ()


def test_the_named_commands_are_ones_that_can_be_run() -> None:
    import shlex

    from vggrpo.cli.main import _parse

    for text in FIGURES:
        command = shlex.split(text.command)
        assert command[:3] == ["python", "-m", "vggrpo"]
        parsed = _parse(command[3:])
        assert parsed.record
        assert getattr(parsed, "name", text.name) == text.name


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 1}', '{"format": 9, "kind": "contest"}'])
def test_a_damaged_file_is_told_and_takes_nothing_else_down(results: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(results, tmp_path / "results")
    (tmp_path / "results" / "contest.json").write_text(damage)
    html = evidence_html([read_section(text, results=tmp_path / "results") for text in FIGURES])
    assert html.count("The recorded numbers cannot be read.") == 1
    assert len(figures_of(html)) == len(MEASURES) + 6


def test_a_row_without_its_numbers_is_unreadable(results: Path, tmp_path: Path) -> None:
    for read, name, part in (
        (read_contest, "contest", "rows"),
        (read_robustness, "robustness", "advantage"),
        (read_cost, "cost", "latent"),
    ):
        content = json.loads((results / f"{name}.json").read_text())
        del content["result"][part]
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        with pytest.raises(UnreadableResult, match=part):
            read(tmp_path / f"{name}.json")


def test_the_files_that_are_linked_are_served(results: Path) -> None:
    served = about_figures(results.parent)
    assert {path.name for path in served} == {f"{text.name}.json" for text in FIGURES}
    html = evidence_html([read_section(TRANSITIONS, results=results)])
    assert f'{results / "transitions.json"}" download="transitions.json"' in html


@pytest.mark.parametrize(("seconds", "told"), [(12.4, "12 s"), (151.0, "3 min"), (5400.0, "1.5 h")])
def test_durations_are_short(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_the_script_knows_where_plotly_is() -> None:
    assert "plotly.min.js" in evidence_script()
    assert '"at_once": true' in evidence_script("file:///plotly.min.js", at_once=True)


# --- Pictures --------------------------------------------------------------------------------------------------------


def test_a_picture_holds_the_pages_own_figures(results: Path) -> None:
    section = read_section(COST, results=results)
    html = pictures.picture_html(section)
    assert figures_of(html) == figures_of(evidence_html([section]))
    assert "http" not in re.sub(r'"http[^"]*w3\.org[^"]*"', "", html)
    assert 'class="result-choices"' not in pictures.picture_html(read_section(CONTEST, results=results))


def test_pictures_of_what_is_not_recorded_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pictures.main(["--results", str(tmp_path), "cost"]) == 2
    assert "cost is not recorded: run `python -m vggrpo bench reward --record`" in capsys.readouterr().err
    assert pictures.main(["--results", str(tmp_path), "moon"]) == 2
    assert "there is no figure 'moon'" in capsys.readouterr().err
    assert pictures.main(["--results", str(tmp_path)]) == 0
    assert list(tmp_path.iterdir()) == []


def test_without_a_browser_one_line_says_so(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pictures.main(["--results", str(results), "cost"]) == 2
    assert "no chromium on the PATH" in capsys.readouterr().err
    assert not (results / "cost.png").exists()


def test_an_unrecorded_section_has_no_content(tmp_path: Path) -> None:
    assert read_section(COST, results=tmp_path) == Section(text=COST)
