"""From what lies in the folder to the report: every contestant against base, the tuned model against its rivals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vggrpo.evaluation.contest.contestants import BASE, TRUE, Contestant
from vggrpo.evaluation.contest.drive import Contest
from vggrpo.evaluation.contest.files import ContestantFolder
from vggrpo.evaluation.contest.frechet_rows import frechet_rows
from vggrpo.evaluation.contest.goals import GOALS, RIVAL_MEASURES, ahead_of, verdict_of
from vggrpo.evaluation.contest.measures import ContestMeasure, contest_measures
from vggrpo.evaluation.contest.question import Group, Question, Take
from vggrpo.evaluation.contest.rows import Duel, Row
from vggrpo.evaluation.contest.statistics import Scores, compare, mean_of
from vggrpo.evaluation.judges import FRECHET

RIVAL_OBJECTIVES = frozenset({"sft", "dpo"})
"""What the tuned model is meant to be ahead of."""
_NOT_READ = "this judge was not there"


@dataclass(frozen=True, kw_only=True)
class ContestReport:
    """Everything that can be said; ``champion`` is who the duels are of, None where it takes no part."""

    question: Question
    contestants: tuple[Contestant, ...]
    measures: tuple[ContestMeasure, ...]
    rows: tuple[Row, ...]
    duels: tuple[Duel, ...]
    champion: str | None
    frechet_basis: str | None = None
    """In which part of the features the Fréchet distance of the widest group is measured."""

    def row(self, contestant: str, measure: str, group: Group) -> Row | None:
        """One row."""
        wanted = (contestant, measure, group)
        return next((row for row in self.rows if (row.contestant, row.measure, row.group) == wanted), None)

    def has_true_clips(self) -> bool:
        """Whether true clips were judged beside the contestants."""
        return any(row.contestant == TRUE for row in self.rows)

    def to_json(self) -> dict[str, object]:
        """The content of a result file."""
        return {
            "baseline": BASE,
            "champion": self.champion,
            "contestants": [
                {"name": one.name, "title": one.title, "note": one.note, "objective": one.objective}
                for one in self.contestants
            ],
            "measures": [one.to_json() for one in self.measures],
            "rows": [row.to_json() for row in self.rows],
            "duels": [duel.to_json() for duel in self.duels],
        }


def report_of(contest: Contest, *, champion: str | None) -> ContestReport:
    """Read a finished folder. ``champion`` names the contestant whose duels are told, if it takes part."""
    question, measures = contest.question, contest_measures()
    table = _read(contest, measures)
    rows: list[Row] = []
    duels: list[Duel] = []
    bases: dict[Group, str | None] = {}
    if champion not in {contestant.name for contestant in contest.contestants}:
        champion = None
    for group in question.groups():
        chosen = question.indices(group)
        for measure in measures:
            if measure.name == FRECHET.name:
                distances = frechet_rows(contest, group)
                rows += distances.rows
                bases[group] = distances.basis
                continue
            scores = {one.name: table[one.name][measure.name].only(chosen) for one in contest.contestants}
            rows += [_row(one, measure, scores, group=group) for one in contest.contestants]
            if TRUE in table:
                rows.append(_true_row(contest, measure, table[TRUE][measure.name], group=group))
            if champion is not None and measure.family != "own":
                rivals = [one for one in contest.contestants if one.name not in {BASE, champion}]
                duels += [_duel(champion, one, measure, scores, group=group) for one in rivals]
    return ContestReport(
        question=question,
        contestants=contest.contestants,
        measures=measures,
        rows=tuple(rows),
        duels=tuple(duels),
        champion=champion,
        frechet_basis=bases[question.groups()[0]],
    )


def _row(contestant: Contestant, measure: ContestMeasure, scores: Mapping[str, Scores], *, group: Group) -> Row:
    """A contestant, against base unless it is base."""
    own = scores[contestant.name]
    comparison = None if contestant.name == BASE else compare(own, rival=scores[BASE], better=measure.better)
    return replace(
        _row_alone(own, contestant=contestant.name, measure=measure, group=group),
        comparison=comparison,
        goal=None if comparison is None else verdict_of(GOALS, comparison, measure=measure.name),
        seen=measure.family == "own" or measure.name in contestant.seen,
    )


def _true_row(contest: Contest, measure: ContestMeasure, scores: Scores, *, group: Group) -> Row:
    """What the judges say of true clips."""
    assert contest.true is not None
    kinds = contest.true.kinds[: contest.true.judged]
    own = scores.only([i for i, kind in enumerate(kinds) if group == "all" or kind in {None, group}])
    return _row_alone(own, contestant=TRUE, measure=measure, group=group)


def _row_alone(own: Scores, *, contestant: str, measure: ContestMeasure, group: Group) -> Row:
    """Without a comparison."""
    return Row(
        contestant=contestant,
        measure=measure.name,
        group=group,
        mean=mean_of(own),
        judged=own.judged,
        of=own.of,
        reasons=own.reason_counts(),
    )


def _duel(
    champion: str, rival: Contestant, measure: ContestMeasure, scores: Mapping[str, Scores], *, group: Group
) -> Duel:
    comparison = compare(scores[champion], rival=scores[rival.name], better=measure.better)
    is_goal = rival.objective in RIVAL_OBJECTIVES and measure.name in RIVAL_MEASURES
    return Duel(
        contestant=champion,
        rival=rival.name,
        measure=measure.name,
        group=group,
        comparison=comparison,
        goal=ahead_of(rival.title, comparison, better=measure.better) if is_goal else None,
    )


def _read(contest: Contest, measures: Sequence[ContestMeasure]) -> dict[str, dict[str, Scores]]:
    """Scores of every contestant, and of true clips, by measure."""
    names = tuple(measure.name for measure in measures if measure.name != FRECHET.name)
    question = contest.question
    table = {one.name: _scores(contest.folder_of(one), names, question.takes()) for one in contest.contestants}
    if contest.true is not None and contest.true.judged:
        table[TRUE] = _scores(contest.true_folder, names, contest.true.takes()[: contest.true.judged])
    return table


def _scores(folder: ContestantFolder, names: Sequence[str], takes: Sequence[Take]) -> dict[str, Scores]:
    """Scores by measure, of takes that fill a rectangle of prompts and repeats."""
    shape = (1 + max(take.prompt for take in takes), 1 + max(take.repeat for take in takes))
    values = {name: np.full(shape, math.nan) for name in names}
    reasons: dict[str, dict[tuple[int, int], str]] = {name: {} for name in names}
    for take in takes:
        findings = folder.findings(take)
        place = (take.prompt, take.repeat)
        for name in names:
            found = findings.get(name)
            if found is not None and math.isfinite(found.value):
                values[name][place] = found.value
            else:
                reasons[name][place] = (None if found is None else found.reason) or _NOT_READ
    return {name: Scores(values=values[name], reasons=reasons[name]) for name in names}
