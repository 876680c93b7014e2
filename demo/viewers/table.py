"""The table of rewards and guards with plain words beside every number."""

from html import escape

from demo.results import GuidanceResult, RewardTrace, RunResult
from demo.text import GUARDS, GUIDANCE_COST, GUIDANCE_NOTE, GUIDANCE_REWARD, TERMS, TermText


def reward_table(run: RunResult) -> str:
    """HTML of the rewards, and of what guidance brought; all text that comes from files is escaped."""
    return _rewards(run) + (_guidance(run.reward_guidance) if run.reward_guidance else "")


def _guidance(guidance: GuidanceResult) -> str:
    """The same seed without and with guidance: the reward that steered first, then what it is made of."""
    rows = "".join(
        f'<tr data-guided="{escape(name)}"><th scope="row">{escape(_guided_label(name))}</th>'
        f'<td class="num">{format_value(value)}</td><td class="num">{format_value(guidance.after.get(name))}</td></tr>'
        for name, value in guidance.before.items()
    )
    guided, unguided = (guidance.seconds.get(side) for side in ("guided", "unguided"))
    cost = "" if not guided or not unguided else " " + GUIDANCE_COST.format(guided=guided, unguided=unguided)
    note = GUIDANCE_NOTE.format(
        scale=guidance.scale, every=guidance.every, guided=guidance.guided_steps, skipped=guidance.skipped_steps
    )
    return (
        '<table class="rewards guidance"><caption>Reward guidance, same prompt and seed</caption>'
        '<thead><tr><th scope="col"></th><th scope="col" class="num">Without</th>'
        f'<th scope="col" class="num">With</th></tr></thead><tbody>{rows}</tbody></table>'
        f'<p class="hint">{escape(note + cost)}</p>'
    )


def _guided_label(name: str) -> str:
    return GUIDANCE_REWARD if name == "reward" else describe(name).label


def _rewards(run: RunResult) -> str:
    """The table of rewards and guards."""
    rewards = "".join(_reward_row(trace) for trace in run.rewards)
    guards = "".join(_guard_row(name, value) for name, value in run.guards.items())
    guard_head = '<tr class="group"><th colspan="3" scope="colgroup">Guards · not rewards</th></tr>'
    return (
        '<table class="rewards"><caption class="sr">Rewards of this video</caption>'
        '<thead><tr><th scope="col">Reward</th><th scope="col" class="num">Value</th>'
        '<th scope="col"><span class="sr">On its scale</span></th></tr></thead>'
        f"<tbody>{rewards}</tbody>" + (f"<tbody>{guard_head}{guards}</tbody>" if guards else "") + "</table>"
    )


def format_value(value: float | None) -> str:
    """Three decimals, four for small values, with a true minus sign; a dash for nothing."""
    if value is None:
        return "–"
    decimals = 3 if abs(value) >= 0.1 or value == 0 else 4
    # Adding zero turns the −0.0 of a small negative value into 0.0.
    return f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", "−")


def describe(name: str) -> TermText:
    """What the page says about a reward or guard; its bare name where the page knows nothing better."""
    known = TERMS.get(name) or GUARDS.get(name)
    label = name.replace("_", " ").capitalize()
    return known or TermText(label=label, brief=label, short="", tip="")


def _reward_row(trace: RewardTrace) -> str:
    text = describe(trace.name)
    note = text.short if trace.value is not None else f"Not measured: {trace.reason or 'no reason was given'}"
    return (
        f'<tr data-term="{escape(trace.name)}"><th scope="row">{_name(trace.name, text)}'
        f'<small>{escape(note)}</small></th><td class="num">{format_value(trace.value)}</td>'
        f'<td class="gauge">{_gauge(trace.value, text)}</td></tr>'
    )


def _guard_row(name: str, value: float | None) -> str:
    text = describe(name)
    return (
        f'<tr data-term="{escape(name)}"><th scope="row">{_name(name, text)}<small>{escape(text.short)}</small></th>'
        f'<td class="num">{format_value(value)}</td><td></td></tr>'
    )


def _name(name: str, text: TermText) -> str:
    """The label and, where there is one, a tooltip that opens on hover, focus and tap."""
    if not text.tip:
        return escape(text.label)
    return (
        f'{escape(text.label)}<span class="tip" tabindex="0" role="note" aria-label="{escape(text.tip)}">'
        f'<span aria-hidden="true">?</span><span class="tip-text" id="tip-{escape(name)}">{escape(text.tip)}</span>'
        "</span>"
    )


def _gauge(value: float | None, text: TermText) -> str:
    """Where the value stands between the worst and the best that the reward usually takes."""
    if value is None:
        return ""
    share = (value - text.lowest) / (text.highest - text.lowest)
    percent = 100.0 * min(max(share, 0.0), 1.0)
    ends = f"{format_value(text.lowest)} to {format_value(text.highest)}"
    return f'<span class="bar" title="on a scale from {ends}"><i style="width:{percent:.1f}%"></i></span>'
