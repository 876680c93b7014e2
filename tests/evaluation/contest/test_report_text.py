"""Tables and remarks. Oracle: texts written out by hand for a contest whose outcome is known."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation.contest.oracle import NumberDraw, contest, contestants, models, question
from vggrpo.evaluation.contest.drive import run_contest
from vggrpo.evaluation.contest.markdown import markdown, markdown_table
from vggrpo.evaluation.contest.remarks import remarks_of
from vggrpo.evaluation.contest.report import ContestReport, report_of
from vggrpo.evaluation.contest.tables import GAIN, LOSS, SEEN, Sheet, page_sheets, signed, terminal_sheets


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ContestReport:
    return made(tmp_path_factory.mktemp("contest"), vggrpo=0.7, sft=1.2, dpo=0.6)


def made(folder: Path, **factors: float) -> ContestReport:
    asked = question()
    held = contest(folder, asked=asked, who=contestants(**factors))
    run_contest(held, models(NumberDraw(asked)), on_progress=lambda _: None)
    return report_of(held, champion="vggrpo")


def sheet(report: ContestReport, title: str) -> Sheet:
    return next(one for one in page_sheets(report) if one.title == title)


def column(one: Sheet, heading: str) -> list[str]:
    place = next(index for index, name in enumerate(one.columns) if heading in name.lower())
    return [row[place] for row in one.rows]


def test_changes_have_sign_interval_and_direction(report: ContestReport) -> None:
    judges = sheet(report, "Judges that no training saw, static and dynamic worlds")
    assert [row[0] for row in judges.rows] == ["base", "VGGRPO", "SFT", "DPO", "true clips"]
    base, vggrpo, sft, dpo, true = column(judges, "sampson")
    assert base.startswith("1.3")
    assert true.startswith("0.67")
    assert vggrpo == f"−30 % (−30 to −30) {GAIN}"
    assert sft == f"+20 % (+20 to +20) {LOSS}"
    assert dpo == f"−40 % (−40 to −40) {GAIN} {SEEN}"


def test_shares_change_in_points(report: ContestReport) -> None:
    guards = sheet(report, "Guards: what a gain may not cost, static worlds")
    cells = next(column(guards, name.lower()) for name in guards.columns if "prompt" in name.lower())
    assert "points (" in cells[1]
    assert "%" in cells[0]


def test_goals_and_rivals_are_told(report: ContestReport) -> None:
    goals = sheet(report, "Goals of VGGRPO, static and dynamic worlds")
    assert {row[1] for row in goals.rows} >= {"−20 % or better", "ahead of SFT", "ahead of DPO"}
    assert {row[3] for row in goals.rows if row[1] == "ahead of DPO"} == {"not reached"}
    duels = sheet(report, "VGGRPO against each other one, static and dynamic worlds")
    assert column(duels, "sampson") == [f"−42 % (−42 to −42) {GAIN}", f"+17 % (+17 to +17) {LOSS}"]


def test_prompts_won(report: ContestReport) -> None:
    wins = sheet(report, "Prompts won against base (for a guard: with more of it), static and dynamic worlds")
    assert column(wins, "sampson") == ["100 % (68 to 100)", "0 % (0 to 32)", "100 % (68 to 100)"]  # Wilson, n = 8


def test_the_terminal_sees_every_measure_and_contestant(report: ContestReport) -> None:
    long = terminal_sheets(report)[1]
    assert long.is_grouped
    named = [row[0] for row in long.rows if row[0]]
    assert len(named) == len(report.measures)
    assert len(long.rows) == 5 * len(report.measures)


def test_a_page_is_markdown(report: ContestReport) -> None:
    page = markdown(page_sheets(report), title="a | title", facts=["one"], remarks=["so it is"])
    tables = [block for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) > 10
    for block in tables:
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert page.endswith("## Remarks\n\n- so it is\n")
    assert markdown_table(Sheet(title="", columns=("a", "b"), rows=(("x|y", "z"),))).splitlines()[2] == "| x∣y | z |"


def test_a_rival_that_is_ahead_is_named_first(report: ContestReport) -> None:
    remarks = remarks_of(report)
    assert remarks[0].startswith("DPO is ahead of VGGRPO, which against it has Sampson epipolar error +17 % (")
    # Everything that is no error is the inverse of the defect: six tenths of it are 67 % more.
    assert "; DPO against base has camera path +67 % (+67 to +67) ▲" in remarks[0]
    assert not any(remark.startswith("SFT is ahead") for remark in remarks)
    assert any(remark.startswith("VGGRPO against base: ") for remark in remarks)
    assert any("4 prompts a group" in remark for remark in remarks)


def test_unequal_budgets_are_said(report: ContestReport) -> None:
    assert not any("different numbers" in remark for remark in remarks_of(report))
    cheap = tuple(replace(one, videos=8) if one.name == "sft" else one for one in report.contestants)
    told = remarks_of(replace(report, contestants=cheap))
    assert any("different numbers of videos" in remark and "SFT 8" in remark for remark in told)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (-0.234, "share", "−23 %"),
        (0.0, "share", "+0 %"),
        (-0.0123, "points", "−1.2 points"),
        (-1.5, "px", "−1.50 px"),
        (0.25, "", "+0.25"),
        (float("nan"), "share", "–"),
    ],
)
def test_signed(value: float, unit: str, text: str) -> None:
    assert signed(value, unit=unit) == text


def test_gaps_share_a_line_where_they_are_the_same(report: ContestReport) -> None:
    reasons = {"only 4 % followed; 30 are needed": 2, "only 12 % followed; 30 are needed": 3, "too dark": 1}
    rows = tuple(
        replace(row, judged=10, of=16, reasons=reasons)
        for row in report.rows
        if row.contestant == "sft" and row.measure in {"sampson", "reprojection"}
    )
    gaps = page_sheets(replace(report, rows=rows))[-1]
    assert len(gaps.rows) == 1
    who, measures, judged, why = gaps.rows[0]
    assert (who, judged, len(measures.split(", "))) == ("SFT", "10 of 16", 2)
    assert why == "5 × only 4 % followed; 30 are needed; 1 × too dark"
