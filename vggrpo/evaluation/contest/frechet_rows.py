"""The Fréchet distance in the report: one number for all videos of a contestant, not one a video."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vggrpo.evaluation import estimates
from vggrpo.evaluation.contest.contestants import BASE, TRUE, Contestant
from vggrpo.evaluation.contest.drive import Contest
from vggrpo.evaluation.contest.files import ContestantFolder, Features
from vggrpo.evaluation.contest.frechet_bootstrap import FrechetBootstrap, bootstrap_distances, too_few
from vggrpo.evaluation.contest.goals import GOALS, verdict_of
from vggrpo.evaluation.contest.question import Group, Take
from vggrpo.evaluation.contest.rows import Row
from vggrpo.evaluation.contest.statistics import Comparison
from vggrpo.evaluation.judges import FRECHET

NO_TRUE_CLIPS = "there are no held-out true clips to compare with"


@dataclass(frozen=True, kw_only=True, slots=True)
class FrechetRows:
    """A row of every contestant; ``basis`` says in which part of the features distances are, None where there are
    none."""

    rows: tuple[Row, ...]
    basis: str | None = None


def frechet_rows(contest: Contest, group: Group) -> FrechetRows:
    """A row of every contestant and, where there are enough, of further true clips: theirs should be about zero."""
    prompts = contest.question.indices(group)
    reference = _true_features(contest, group, reference=True)
    reason = NO_TRUE_CLIPS if contest.true is None else too_few(prompts=len(prompts), true_clips=len(reference))
    if reason is not None:
        return FrechetRows(rows=tuple(_unmeasured(contest, one, reason, group=group) for one in contest.contestants))
    found = bootstrap_distances(
        {one.name: _prompt_features(contest, one, prompts) for one in contest.contestants}, true=reference
    )
    rows = [_row(contest, one, found, group=group) for one in contest.contestants]
    others = _true_features(contest, group, reference=False)
    if too_few(prompts=len(others), true_clips=len(reference)) is None:
        among_true = bootstrap_distances({TRUE: others}, true=reference).distance(TRUE)
        rows.append(
            Row(
                contestant=TRUE,
                measure=FRECHET.name,
                group=group,
                mean=among_true,
                judged=len(others),
                of=len(others),
                reasons={},
            )
        )
    basis = f"{found.directions} principal directions ({100 * found.explained:.0f} % of the variance)"
    return FrechetRows(rows=tuple(rows), basis=basis)


def _row(contest: Contest, contestant: Contestant, found: FrechetBootstrap, *, group: Group) -> Row:
    comparison = None if contestant.name == BASE else found.change(contestant.name, base=BASE)
    videos = _videos(contest, group)
    return Row(
        contestant=contestant.name,
        measure=FRECHET.name,
        group=group,
        mean=found.distance(contestant.name),
        judged=videos,
        of=videos,
        reasons={},
        comparison=comparison,
        goal=None if comparison is None else verdict_of(GOALS, comparison, measure=FRECHET.name),
        seen=FRECHET.name in contestant.seen,
    )


def _unmeasured(contest: Contest, contestant: Contestant, reason: str, *, group: Group) -> Row:
    """No number, and why."""
    missing = estimates.not_measured(reason, of="prompts")
    comparison = Comparison(difference=missing, relative=missing, win_rate=None)
    videos = _videos(contest, group)
    return Row(
        contestant=contestant.name,
        measure=FRECHET.name,
        group=group,
        mean=missing,
        judged=0,
        of=videos,
        reasons={reason: videos},
        comparison=None if contestant.name == BASE else comparison,
        goal=None if contestant.name == BASE else verdict_of(GOALS, comparison, measure=FRECHET.name),
    )


def _videos(contest: Contest, group: Group) -> int:
    return len(contest.question.indices(group)) * contest.question.repeats


def _prompt_features(contest: Contest, contestant: Contestant, prompts: Sequence[int]) -> list[Features]:
    """The frames of all videos of each prompt."""
    folder, repeats = contest.folder_of(contestant), range(contest.question.repeats)
    return [np.concatenate([folder.features(Take(prompt=i, repeat=one)) for one in repeats]) for i in prompts]


def _true_features(contest: Contest, group: Group, *, reference: bool) -> list[Features]:
    if contest.true is None:
        return []
    folder: ContestantFolder = contest.true_folder
    return [folder.features(take) for take in contest.true.takes_of(group, reference=reference)]
