"""Pose errors over noise on the latents: one panel an error, two readers with their intervals, and a yardstick."""

from collections.abc import Sequence
from typing import Any

from demo.evidence import Number, Robustness, RobustnessLevel
from demo.evidence_text import POSE_MEASURES, POSE_REFERENCES, READERS, YARDSTICKS
from demo.viewers.evidence_panels import FAINT, OTHERS, OURS, Content, Fact, Group, Panel, axis, key_html, layout

HEIGHT = 260
_NAMES = {"latent": "Φ_g on latents", "decoded": "Φ on decoded video"}
_COLOURS = {"latent": OURS, "decoded": OTHERS}


def robustness_content(robustness: Robustness) -> Content:
    """A panel for every error, and a sentence each on who is the better."""
    panels = []
    for reference, reference_name in POSE_REFERENCES.items():
        for measure, measure_name in POSE_MEASURES.items():
            levels = robustness.curves.get((reference, measure))
            if not levels:
                continue
            yardstick = robustness.yardsticks.get(measure) if reference == "truth" else None
            panels.append(_panel(levels, title=f"{measure_name} {reference_name}", measure=measure, limit=yardstick))
    key = key_html(
        {"line ours": READERS["latent"], "line others": READERS["decoded"], "line dotted": "believed to stand, chance"}
    )
    note = f"{robustness.clips} held-out clips. The latents' own standard deviation is about 1."
    return Content(groups=[Group(title="", panels=panels, is_wide=True)], notes=[note], key=key)


def _verdict(levels: Sequence[RobustnessLevel]) -> str:
    """At how many noise levels either reader is better beyond its interval."""
    noisy = [level.advantage for level in levels if level.noise > 0.0]
    latent = sum(1 for gain in noisy if gain.low is not None and gain.low > 0.0)
    decoded = sum(1 for gain in noisy if gain.high is not None and gain.high < 0.0)
    unclear = len(noisy) - latent - decoded
    return (
        f"of {len(noisy)} noise levels, {READERS['latent']} is clearly better at {latent}, {READERS['decoded']} at "
        f"{decoded}, neither at {unclear}"
    )


def _panel(levels: Sequence[RobustnessLevel], *, title: str, measure: str, limit: float | None) -> Panel:
    traces: list[dict[str, Any]] = []
    for reader in ("decoded", "latent"):
        found = [(level.noise, level.latent if reader == "latent" else level.decoded) for level in levels]
        traces += [*_band(found, reader=reader), _line(found, reader=reader)]
    noises = [level.noise for level in levels]
    if limit is not None:
        traces.append(_yardstick(noises, limit=limit, measure=measure))
    first, last = levels[0], levels[-1]
    spoken = "; ".join(
        f"{_NAMES[reader]} {_degrees(_of(first, reader))} without noise, "
        f"{_degrees(_of(last, reader))} at {last.noise:g}"
        for reader in ("latent", "decoded")
    )
    figure = {
        "data": traces,
        "layout": layout(
            height=HEIGHT,
            margin={"l": 8, "r": 10, "t": 8, "b": 40},
            hovermode="x",
            xaxis=axis(title={"text": "noise σ on the latents", "standoff": 6}, showgrid=False, range=_span(noises)),
            yaxis=axis(ticksuffix="°", rangemode="tozero", automargin=True, nticks=6),
        ),
    }
    return Panel(title=title, facts=[Fact(text=_verdict(levels))], figure=figure, spoken=f"{title}: {spoken}.")


def _band(found: Sequence[tuple[float, Number]], *, reader: str) -> list[dict[str, Any]]:
    """The interval as a closed area; nothing where there are no intervals."""
    known = [(x, number.low, number.high) for x, number in found if number.low is not None and number.high is not None]
    if len(known) < 2:
        return []
    there = [(x, low) for x, low, _ in known]
    back = [(x, high) for x, _, high in reversed(known)]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "uid": f"{reader}-band",
            "x": [x for x, _ in (*there, *back)],
            "y": [y for _, y in (*there, *back)],
            "fill": "toself",
            "fillcolor": _COLOURS[reader],
            "opacity": 0.16,
            "line": {"width": 0},
            "hoverinfo": "skip",
        }
    ]


def _line(found: Sequence[tuple[float, Number]], *, reader: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "uid": f"{reader}-line",
        "x": [x for x, _ in found],
        "y": [number.value for _, number in found],
        "line": {"width": 2, "color": _COLOURS[reader]},
        "marker": {"size": 6, "color": _COLOURS[reader]},
        "hovertext": [f"{_NAMES[reader]}: {_degrees(number)}" for _, number in found],
        "hoverinfo": "text",
    }


def _yardstick(noises: Sequence[float], *, limit: float, measure: str) -> dict[str, Any]:
    """What a reader that knows nothing would get."""
    return {
        "type": "scatter",
        "mode": "lines",
        "uid": "yardstick",
        "x": [noises[0], noises[-1]],
        "y": [limit, limit],
        "line": {"width": 1.5, "dash": "dot", "color": FAINT},
        "hovertext": [f"{YARDSTICKS[measure]}: {limit:.1f}°"] * 2,
        "hoverinfo": "text",
    }


def _of(level: RobustnessLevel, reader: str) -> Number:
    return level.latent if reader == "latent" else level.decoded


def _degrees(number: Number) -> str:
    if number.value is None:
        return f"not measured ({number.reason or 'no reason was given'})"
    between = "" if number.low is None or number.high is None else f" ({number.low:.1f} to {number.high:.1f})"
    return f"{number.value:.1f}°{between}"


def _span(noises: Sequence[float]) -> list[float]:
    """The levels with a little room for the dots at both ends."""
    room = 0.03 * (noises[-1] - noises[0])
    return [noises[0] - room, noises[-1] + room]
