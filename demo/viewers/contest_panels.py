"""The comparison of all contestants: panels by kind of measure, and in words which goals were reached."""

from collections.abc import Mapping
from html import escape

from demo.evidence import Contest, GoalVerdict
from demo.evidence_text import CLIPS, FAMILIES, SEEN, SEEN_NOTE
from demo.viewers.contest_forest import Forest
from demo.viewers.evidence_panels import Content, Group, html_of, key_html


def contest_content(contest: Contest) -> Content:
    """Panels by kind of measure, the goals that are told, and the remarks of the report."""
    groups = []
    for family, heading in FAMILIES.items():
        panels = [Forest(contest=contest, measure=one).panel() for one in contest.measures if one.family == family]
        if panels:
            groups.append(Group(title=heading, panels=panels))
    champion = contest.title_of(contest.champion)
    whose = {"dot ours": escape(champion), "dot others": "others"} if champion else {"dot others": "clear of zero"}
    key = key_html(whose | {"dot open": "the interval holds zero", "better": "better than base"})
    notes = [*_goal_notes(contest), *_duel_notes(contest), *(html_of(remark) for remark in contest.remarks)]
    if any(row.seen_in_training for row in contest.rows):
        notes.append(f"{SEEN} {SEEN_NOTE}")
    return Content(groups=groups, notes=notes, key=key, choices={name: CLIPS.get(name, name) for name in contest.clips})


def _goal_notes(contest: Contest) -> list[str]:
    """How many goals against the base model the champion reaches, and which it does not."""
    if contest.champion is None:
        return []
    rows = {
        measure.title: contest.row(contest.champion, measure=measure.name, clips=contest.clips[0])
        for measure in contest.measures
    }
    goals = {title: row.goal for title, row in rows.items() if row is not None and row.goal is not None}
    return _counted(f"{contest.title_of(contest.champion)} reaches {{}} of {{}} goals against base", goals)


def _duel_notes(contest: Contest) -> list[str]:
    """By how many judges the champion is ahead of the other objectives, and by which it is not."""
    titles = {measure.name: measure.title for measure in contest.measures}
    goals = {
        f"{titles.get(duel.measure, duel.measure)} of {contest.title_of(duel.rival)}": duel.goal
        for duel in contest.duels
    }
    title = contest.title_of(contest.champion)
    return _counted(f"{title} is ahead of other objectives in {{}} of {{}} comparisons", goals)


def _counted(sentence: str, goals: Mapping[str, GoalVerdict]) -> list[str]:
    """The sentence with how many are met of how many, and the names of the others; nothing where there are none."""
    if not goals:
        return []
    missed = [name for name, goal in goals.items() if goal.met is False]
    unknown = [name for name, goal in goals.items() if goal.met is None]
    parts = [sentence.format(len(goals) - len(missed) - len(unknown), len(goals))]
    parts += [f"not: {', '.join(missed)}"] if missed else []
    parts += [f"not measured: {', '.join(unknown)}"] if unknown else []
    return [f"<b>{escape('; '.join(parts))}.</b>"]
