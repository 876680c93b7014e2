"""Many prompts on both sides as drawings: every video a dot, every prompt a line, and the paired difference below zero
or above it. Plain SVG, painted by ``compare.css``; each prompt is a button that names its place in the list.
"""

from collections.abc import Callable
from html import escape

import numpy as np

from demo.pair_results import ComparisonResult, PairedReward
from demo.text import EMPTY_COMPARE_TITLE, EMPTY_MANY_HINT
from demo.viewers.table import describe, format_value

WIDTH, HEIGHT = 640, 96
_LEFT, _RIGHT = 54, 16
_BASE_Y, _TUNED_Y, _AXIS_Y = 18, 58, 80
_DIFFERENCE_WIDTH, _DIFFERENCE_HEIGHT = 300, 46
_RADIUS = 4.5


def comparison_html(result: ComparisonResult, *, download: str = "") -> str:
    """The whole view; ``download`` is the address of ``comparison.json``."""
    count = f"{len(result.prompts)} of {result.asked}" if not result.is_complete else str(len(result.prompts))
    link = f'<span><a href="{escape(download)}" download="comparison.json">comparison.json</a></span>'
    file = link if download else ""
    rows = "".join(_row(reward, result) for reward in result.rewards)
    return (
        '<section class="comparison stage"><header>'
        f"<h2>{escape(result.base_label)} against {escape(result.tuned_label)}</h2>"
        f'<p class="facts"><span>{count} prompts, the same seeds on both sides</span>'
        f"<span>higher is better</span>{file}</p></header>{rows}{_guards(result)}</section>"
    )


def empty_comparison_html() -> str:
    """What stands there before the first comparison."""
    return (
        '<section class="comparison stage"><div class="empty"><div class="empty-mark" aria-hidden="true">'
        f"<i></i><i></i><i></i></div><h2>{escape(EMPTY_COMPARE_TITLE)}</h2><p>{escape(EMPTY_MANY_HINT)}</p></div></section>"
    )


def sentence(reward: PairedReward, *, tuned_label: str) -> str:
    """What the interval says, in plain words; trusted HTML."""
    left_out = ""
    if reward.left_out:
        verb = "is" if reward.left_out == 1 else "are"
        left_out = f" {_prompts(reward.left_out)} could not be judged on both sides and {verb} left out."
    if reward.mean is None or reward.low is None or reward.high is None:
        return f"<b>Not enough to tell.</b> {escape(reward.reason.capitalize())}."
    mean, ends = signed(reward.mean), f"{signed(reward.low)} to {signed(reward.high)}"
    over = f"on average over {_prompts(reward.judged)}"
    if reward.low > 0 or reward.high < 0:
        verdict = f"{'Higher' if reward.low > 0 else 'Lower'} with {escape(tuned_label)}"
        return f"<b>{verdict}:</b> {mean} {over}; the 95 % interval is {ends}.{left_out}"
    return f"<b>No clear difference:</b> {mean} {over}, and the 95 % interval, {ends}, holds zero.{left_out}"


def signed(value: float) -> str:
    """A difference with its sign."""
    text = format_value(value)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"


def _row(reward: PairedReward, result: ComparisonResult) -> str:
    """One reward: dots of both sides on the left, the difference in words and as an interval on the right."""
    text = describe(reward.name)
    return (
        f'<article class="comparison-row" data-reward="{escape(reward.name)}">'
        f"<div><h3>{escape(text.label)}<small>{escape(text.short)}</small></h3>{_dots(reward, result)}</div>"
        f'<div><p class="sentence">{sentence(reward, tuned_label=result.tuned_label)}</p>{_interval(reward)}</div>'
        "</article>"
    )


def _dots(reward: PairedReward, result: ComparisonResult) -> str:
    """Both sides over one axis, a line from each prompt's base to its tuned video."""
    judged = np.isfinite(reward.base) & np.isfinite(reward.tuned)
    if not judged.any():
        return ""
    values = np.concatenate([reward.base[judged], reward.tuned[judged]])
    place = _scale(float(values.min()), float(values.max()), left=_LEFT + 8, right=WIDTH - _RIGHT)
    marks = "".join(_pair(index, reward, result, place=place) for index in np.flatnonzero(judged).tolist())
    means = "".join(
        f'<line class="mean {side}" x1="{place(mean):.1f}" x2="{place(mean):.1f}" y1="{y - 11}" y2="{y + 11}"/>'
        for side, y, mean in (
            ("base", _BASE_Y, float(reward.base[judged].mean())),
            ("tuned", _TUNED_Y, float(reward.tuned[judged].mean())),
        )
    )
    low, high = float(values.min()), float(values.max())
    name = escape(describe(reward.name).label)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{name}, by prompt">'
        f'<text class="name" x="0" y="{_BASE_Y + 4}">Base</text>'
        f'<text class="name" x="0" y="{_TUNED_Y + 4}">Tuned</text>'
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH}" y1="{_AXIS_Y}" y2="{_AXIS_Y}"/>'
        f'<text x="{_LEFT + 8}" y="{HEIGHT - 3}">{format_value(low)}</text>'
        f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{format_value(high)}</text>{marks}{means}</svg>'
    )


def _pair(index: int, reward: PairedReward, result: ComparisonResult, *, place: Callable[[float], float]) -> str:
    """One prompt: its two dots and the line between them, with its words as a tooltip."""
    base, tuned = float(reward.base[index]), float(reward.tuned[index])
    said = f"{result.prompts[index]} · seed {result.seeds[index]}: {format_value(base)} → {format_value(tuned)}"
    return (
        f'<g class="pair" tabindex="0" role="button" data-index="{index}" aria-label="{escape(said)}">'
        f"<title>{escape(said)}</title>"
        f'<line class="link" x1="{place(base):.1f}" x2="{place(tuned):.1f}" y1="{_BASE_Y}" y2="{_TUNED_Y}"/>'
        f'<circle class="dot base" cx="{place(base):.1f}" cy="{_BASE_Y}" r="{_RADIUS}"/>'
        f'<circle class="dot" cx="{place(tuned):.1f}" cy="{_TUNED_Y}" r="{_RADIUS}"/></g>'
    )


def _interval(reward: PairedReward) -> str:
    """The mean difference and its interval on an axis that holds zero."""
    if reward.mean is None or reward.low is None or reward.high is None:
        return ""
    place = _scale(min(reward.low, 0.0), max(reward.high, 0.0), left=10, right=_DIFFERENCE_WIDTH - 10)
    zero, low, high = place(0.0), place(reward.low), place(reward.high)
    return (
        f'<svg viewBox="0 0 {_DIFFERENCE_WIDTH} {_DIFFERENCE_HEIGHT}" role="img" '
        'aria-label="Mean difference with its 95 % interval">'
        f'<line class="zero" x1="{zero:.1f}" x2="{zero:.1f}" y1="4" y2="30"/>'
        f'<line class="interval" x1="{low:.1f}" x2="{high:.1f}" y1="17" y2="17"/>'
        f'<circle class="estimate" cx="{place(reward.mean):.1f}" cy="17" r="5"/>'
        f'<text x="{zero:.1f}" y="43" text-anchor="{_anchor(zero)}">no difference</text></svg>'
    )


def _anchor(x: float) -> str:
    """A label near an end of the drawing is aligned with it."""
    if x < 45:
        return "start"
    return "end" if x > _DIFFERENCE_WIDTH - 45 else "middle"


def _guards(result: ComparisonResult) -> str:
    """What a reward can be gained by giving up, as means of both sides."""
    parts = []
    for guard in result.guards:
        judged = np.isfinite(guard.base) & np.isfinite(guard.tuned)
        if not judged.any():
            continue
        base, tuned = float(guard.base[judged].mean()), float(guard.tuned[judged].mean())
        change = f", {100 * tuned / base:.0f} % of the base" if base > 0 else ""
        label = escape(describe(guard.name).label)
        parts.append(f"{label} {format_value(base)} → {format_value(tuned)}{change}")
    return f'<p class="guards">Guards, not rewards: {"; ".join(parts)}.</p>' if parts else ""


def _scale(low: float, high: float, *, left: float, right: float) -> Callable[[float], float]:
    """Values to places, the smallest at ``left`` and the largest at ``right``; equal ones in the middle."""
    room = high - low

    def place(value: float) -> float:
        return (left + right) / 2 if room <= 0 else left + (right - left) * (value - low) / room

    return place


def _prompts(count: int) -> str:
    return f"{count} prompt{'' if count == 1 else 's'}"
