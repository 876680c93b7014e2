"""Drawing, judging and reporting. Oracle: a contest whose outcome is known by construction, see ``oracle``."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.evaluation.contest.oracle import (
    NumberDraw,
    NumberJudges,
    NumberVae,
    contest,
    contestants,
    defect,
    models,
    question,
)
from vggrpo.evaluation.contest.contestants import BASE, TRUE, Contestant
from vggrpo.evaluation.contest.drive import Contest, ContestProgress, blurred, run_contest
from vggrpo.evaluation.contest.question import Question, Take
from vggrpo.evaluation.contest.remarks import remarks_of
from vggrpo.evaluation.contest.report import ContestReport, report_of
from vggrpo.evaluation.contest.rows import Row
from vggrpo.evaluation.judges import FRECHET, MEASURES, Finding
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents

FACTORS = {"vggrpo": 0.7, "sft": 0.9, "dpo": 0.6}


def ignore(_progress: ContestProgress) -> None:
    """Nobody looks on."""


def finished(
    folder: Path, *, asked: Question | None = None, judges: NumberJudges | None = None, **factors: float
) -> Contest:
    asked = asked or question()
    held = contest(folder, asked=asked, who=contestants(**(factors or FACTORS)))
    run_contest(held, models(NumberDraw(asked), judges), on_progress=ignore)
    return held


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ContestReport:
    return report_of(finished(tmp_path_factory.mktemp("contest")), champion="vggrpo")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a comparison."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def row_of(report: ContestReport, contestant: str, measure: str, group: str = "all") -> Row:
    row = report.row(contestant, measure, group)  # type: ignore[arg-type]
    assert row is not None
    return row


def test_relative_changes_are_the_factors(report: ContestReport) -> None:
    for name, factor in FACTORS.items():
        for group in ("all", "static", "dynamic"):
            comparison = row_of(report, name, "sampson", group).comparison
            assert comparison is not None
            assert comparison.relative.value == pytest.approx(factor - 1.0, abs=1e-5)
            assert (comparison.relative.low, comparison.relative.high) == pytest.approx((factor - 1.0,) * 2, abs=1e-5)
            assert comparison.win_rate is not None
            assert comparison.win_rate.value == 1.0
            inverse = row_of(report, name, "smoothness", group).comparison
            assert inverse is not None
            assert inverse.relative.value == pytest.approx(1.0 / factor - 1.0, abs=1e-5)
            assert inverse.win_rate is not None
            assert inverse.win_rate.value == 1.0


def test_means_are_those_of_the_group(report: ContestReport) -> None:
    takes = question().takes()
    dynamic = [defect(take) for take in takes if take.prompt % 2 == 1]
    row = row_of(report, BASE, "sampson", "dynamic")
    assert row.mean.value == pytest.approx(np.mean(dynamic), abs=1e-5)
    assert (row.judged, row.of, row.comparison, row.goal) == (8, 8, None, None)
    # True clips have half the defect; eight of them answer the prompts.
    assert row_of(report, TRUE, "sampson").mean.value == pytest.approx(np.mean([0.5 + 0.05 * i for i in range(8)]))
    assert row_of(report, TRUE, "sampson").of == 8


def test_goals_and_duels(report: ContestReport) -> None:
    assert [str(row_of(report, name, "sampson").goal) for name in FACTORS] == ["reached", "not reached", "reached"]
    assert str(row_of(report, "vggrpo", "smoothness").goal) == "reached"
    assert row_of(report, "vggrpo", "sharpness").goal is None
    duels = {(duel.rival, duel.measure, duel.group): duel for duel in report.duels}
    assert duels["sft", "sampson", "all"].comparison.relative.value == pytest.approx(0.7 / 0.9 - 1.0, abs=1e-5)
    verdicts = {rival: str(duels[rival, "sampson", "all"].goal) for rival in ("sft", "dpo")}
    assert verdicts == {"sft": "reached", "dpo": "not reached"}
    assert duels["sft", "sharpness", "all"].goal is None


def test_what_a_training_has_seen_is_marked(report: ContestReport) -> None:
    seen = {(row.contestant, row.measure) for row in report.rows if row.seen}
    assert ("dpo", "sampson") in seen
    assert ("vggrpo", "sampson") not in seen
    assert all(name == "dpo" or measure.startswith("reward/") for name, measure in seen)


def test_the_frechet_distance_is_of_all_videos(report: ContestReport) -> None:
    """Base draws twice the defect of the true clips, vggrpo 1.4 times: it lies nearer."""
    change = row_of(report, "vggrpo", FRECHET.name).comparison
    assert change is not None
    assert change.difference.high < 0.0
    assert change.win_rate is None
    assert row_of(report, TRUE, FRECHET.name).of == 12


def test_the_result_is_json_in_the_form_that_the_figure_reads(report: ContestReport) -> None:
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert [one["name"] for one in content["contestants"]] == [BASE, *FACTORS]
    names = {one["name"] for one in content["measures"]}
    assert {*(one.name for one in MEASURES), FRECHET.name, "reward/motion_smoothness"} <= names
    assert all(one["trained_on"] == one["name"].startswith("reward/") for one in content["measures"])
    keys = {"contestant", "measure", "clips", "mean", "difference", "relative", "win_rate", "judged", "of", "reasons"}
    assert all(keys <= row.keys() for row in content["rows"])
    mine = next(r for r in content["rows"] if (r["contestant"], r["measure"]) == ("vggrpo", "sampson"))
    assert mine["relative"]["value"] == pytest.approx(-0.3, abs=1e-5)
    assert mine["goal"] == {"text": "−20 % or better", "met": True, "certain": True}


def test_gaps_are_counted_with_their_reasons_and_never_filled(tmp_path: Path) -> None:
    """The judges see nothing above a defect of 1.5: of base the last two prompts."""
    report = report_of(finished(tmp_path, judges=NumberJudges(blind_above=1.5), vggrpo=0.7), champion="vggrpo")
    base, tuned = row_of(report, BASE, "sampson"), row_of(report, "vggrpo", "sampson")
    blind = sum(defect(take) > 1.5 for take in question().takes())
    assert (base.judged, base.of, dict(base.reasons)) == (16 - blind, 16, {"too blurred": blind})
    assert (tuned.judged, tuned.of) == (16, 16)
    assert tuned.comparison is not None
    # Compared where both were judged.
    assert tuned.comparison.relative.value == pytest.approx(-0.3, abs=1e-5)
    assert (tuned.comparison.difference.n, tuned.comparison.difference.left_out) == (6, 2)
    assert any(f"judged {16 - blind} of 16 videos of base, 16 of 16 of VGGRPO:" in one for one in remarks_of(report))
    own = row_of(report, BASE, "reward/motion_smoothness")
    assert (own.judged, own.mean.is_measured) == (0, False)
    assert sum(own.reasons.values()) == 16


def test_a_run_that_is_cut_off_goes_on_and_ends_with_the_same_numbers(tmp_path: Path) -> None:
    asked, who = question(), contestants(**FACTORS)
    held = contest(tmp_path / "cut", asked=asked, who=who)
    first = NumberDraw(asked, stop_after=20)
    with pytest.raises(KeyboardInterrupt):
        run_contest(held, models(first), on_progress=ignore)
    second, judges = NumberDraw(asked), NumberJudges()
    reports: list[ContestProgress] = []
    run_contest(held, models(second, judges), on_progress=reports.append)
    assert sorted(first.drawn + second.drawn) == sorted((one.name, take.name) for one in who for take in asked.takes())
    assert len(judges.judged) == len(who) * 16  # true clips were judged before the cut
    assert (reports[-1].done, reports[-1].total, reports[-1].seconds_left) == (64, 64, 0.0)
    finished(tmp_path / "whole")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    idle, silent = NumberDraw(asked), NumberJudges()
    run_contest(held, models(idle, silent), on_progress=ignore)
    assert (idle.drawn, silent.judged) == ([], [])


def test_contestants_start_from_the_same_noise_and_newcomers_may_join(tmp_path: Path) -> None:
    finished(tmp_path, vggrpo=0.7)
    asked, draw = question(), NumberDraw(question())
    later = contest(tmp_path, asked=asked, who=contestants(vggrpo=0.7, sft=0.9))
    run_contest(later, models(draw), on_progress=ignore)
    assert {name for name, _ in draw.drawn} == {"sft"}
    assert later.contestants[0].name == BASE


@dataclass
class StripedVae(NumberVae):
    """Columns around the number, one pixel wide."""

    def decode_normalised(self, latents: Latents) -> Tensor:
        return super().decode_normalised(latents) + torch.tensor([-0.5, 0.5, -0.5, 0.5])


@dataclass
class SpreadJudges(NumberJudges):
    """Judge how far pixels stray from their mean."""

    def judge(self, video: Tensor, *, prompts: Sequence[str]) -> Mapping[str, list[Finding]]:
        return super().judge(video.std(dim=(1, 2, 3, 4), correction=0), prompts=prompts)


def test_a_blurred_contestant_is_judged_by_base_videos_under_a_gaussian(tmp_path: Path) -> None:
    asked, draw, judges = question(), NumberDraw(question()), SpreadJudges()
    soft = Contestant(name="blurred", title="base, blurred", about={"blur": 0.4}, blur=0.4)
    held = contest(tmp_path, asked=asked, who=(*contestants(), soft), true=False)
    run_contest(held, replace(models(draw, judges), vae=StripedVae()), on_progress=ignore)
    assert {name for name, _ in draw.drawn} == {BASE}
    report = report_of(held, champion=None)
    assert row_of(report, BASE, "sampson").mean.value == pytest.approx(0.5)
    # The neighbours' weights of the Gaussian, and mirrored borders: stripes stay stripes, 1 − 4 w as high.
    weight = math.exp(-1 / (2 * 0.4**2)) / (1 + 2 * math.exp(-1 / (2 * 0.4**2)))
    assert row_of(report, "blurred", "sampson").mean.value == pytest.approx(0.5 * (1 - 4 * weight), rel=1e-3)


def test_whom_a_judge_cannot_judge_at_all_is_said_once_with_the_reason(tmp_path: Path) -> None:
    """The second contestant's defects are all beyond what the judges see; no Φ_g is there for anybody."""
    held = finished(tmp_path, judges=NumberJudges(blind_above=2.0), vggrpo=0.7, bad=3.0)
    remarks = remarks_of(report_of(held, champion="vggrpo"))
    told = [one for one in remarks if "too blurred" in one]
    assert len(told) == 1
    assert told[0].startswith("BAD has no Sampson epipolar error, ")
    assert not any("judged 0 of" in one or "was not there" in one for one in remarks)


def test_blur_spreads_a_point_within_its_own_frame() -> None:
    video = torch.full((1, 3, 2, 15, 15), -1.0)
    video[0, 1, 0, 7, 7] = 1.0
    soft = blurred(video, sigma=1.0)
    assert torch.equal(soft[0, (0, 2)], video[0, (0, 2)])
    assert torch.equal(soft[0, 1, 1], video[0, 1, 1])
    added = soft[0, 1, 0] + 1.0
    assert added.sum().item() == pytest.approx(2.0, rel=1e-4)
    steps = torch.arange(15) - 7.0
    assert ((added * steps.square()).sum() / added.sum()).item() == pytest.approx(1.0, abs=0.02)


def test_another_adapter_under_the_same_name_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    finished(tmp_path, vggrpo=0.7)
    draw = NumberDraw(question())
    changed = contest(tmp_path, asked=question(), who=contestants(vggrpo=0.5))
    with pytest.raises(UserError, match="holds videos of another vggrpo"):
        run_contest(changed, models(draw), on_progress=ignore)
    assert draw.drawn == []


def test_a_folder_answers_one_question(tmp_path: Path) -> None:
    folder = contest(tmp_path / "c", asked=question(), who=contestants()).folder
    folder.open({"preset": "tiny", "prompts": ["a"], "repeats": 2})
    folder.open({"preset": "tiny", "prompts": ["a"], "repeats": 2})
    with pytest.raises(UserError, match="its prompts differ;"):
        folder.open({"preset": "tiny", "prompts": ["b"], "repeats": 2})
    with pytest.raises(UserError, match="its preset differs;"):
        folder.open({"preset": "wan", "prompts": ["a"], "repeats": 2})
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        contest(other, asked=question(), who=contestants()).folder.open({"preset": "tiny"})


def test_damaged_files_are_named(tmp_path: Path) -> None:
    held = finished(tmp_path, vggrpo=0.7)
    take = Take(prompt=0, repeat=0).name
    features = tmp_path / "contestants" / "vggrpo" / "features" / f"{take}.npy"
    findings = tmp_path / "contestants" / "vggrpo" / "findings" / f"{take}.json"
    whole = features.read_bytes()
    features.write_bytes(b"no array")
    with pytest.raises(UserError, match=f"{take}.npy is damaged"):
        report_of(held, champion=None)
    features.write_bytes(whole)
    for text, words in [("{}", "holds no findings"), ('{"findings": {"sampson": {"value": "1"}}}', "is damaged")]:
        findings.write_text(text)
        with pytest.raises(UserError, match=words):
            report_of(held, champion=None)


def test_without_true_clips_there_is_no_frechet_distance_and_the_reason_is_said(tmp_path: Path) -> None:
    asked = question()
    held = contest(tmp_path, asked=asked, who=contestants(vggrpo=0.7), true=False)
    run_contest(held, models(NumberDraw(asked)), on_progress=ignore)
    report = report_of(held, champion="nobody")
    row = row_of(report, "vggrpo", FRECHET.name)
    assert (row.judged, str(row.goal)) == (0, "not measured")
    assert "no held-out true clips" in next(iter(row.reasons))
    assert not report.has_true_clips()
    assert (report.champion, report.duels) == (None, ())
