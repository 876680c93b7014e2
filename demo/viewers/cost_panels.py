"""What rewards cost from latents and from decoded video: time by phase, and memory, as stacked bars."""

from collections.abc import Mapping
from typing import Any

from demo.evidence import Cost
from demo.evidence_text import COST_PAPER, PHASES, ROUTES
from demo.viewers.evidence_panels import FAINT, OTHERS, OURS, Content, Fact, Group, Panel, axis, layout

HEIGHT = 150
_COLOURS = {"decode": OURS, "geometry": OTHERS, "judge": FAINT, "weights": OTHERS, "tensors": FAINT}
_MEMORY = {"weights": "weights", "tensors": "tensors at most"}


def cost_content(cost: Cost) -> Content:
    """Time and memory side by side, with their ratios."""
    routes = {"latent": cost.latent, "rgb": cost.rgb}
    seconds = {name: dict(route.phases) for name, route in routes.items()}
    memory = {name: {"weights": route.weights_mb, "tensors": route.tensors_mb} for name, route in routes.items()}
    note = (
        f"{cost.videos} videos at once. From latents: {_ratio(cost.latent.seconds, cost.rgb.seconds)} of the time on "
        f"the clock, {_ratio(cost.latent.processor_seconds, cost.rgb.processor_seconds)} of the processor's, "
        f"{_ratio(_sum(memory['latent']), _sum(memory['rgb']))} of the memory. {COST_PAPER}"
    )
    panels = [
        _panel(seconds, names=PHASES, title="Time", unit="s"),
        _panel(memory, names=_MEMORY, title="Memory", unit="MiB"),
    ]
    return Content(groups=[Group(title="", panels=panels, is_wide=True)], notes=[note])


def _panel(parts: Mapping[str, Mapping[str, float]], *, names: Mapping[str, str], title: str, unit: str) -> Panel:
    """One bar a route, one colour a part."""
    traces: list[dict[str, Any]] = []
    for part, name in names.items():
        values = {route: found[part] for route, found in parts.items() if part in found}
        if not values:
            continue
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": [ROUTES[route] for route in values],
                "x": list(values.values()),
                "marker": {"color": _COLOURS[part]},
                "hovertext": [f"{ROUTES[route]}, {name}: {value:.3g} {unit}" for route, value in values.items()],
                "hoverinfo": "text",
            }
        )
    totals = {route: _sum(found) for route, found in parts.items()}
    traces.append(_totals(totals, unit=unit))
    figure = {
        "data": traces,
        "layout": layout(
            height=HEIGHT,
            margin={"l": 8, "r": 8, "t": 8, "b": 34},
            barmode="stack",
            bargap=0.45,
            xaxis=axis(ticksuffix=f" {unit}", rangemode="tozero", nticks=6, range=[0, 1.3 * max(totals.values())]),
            yaxis=axis(
                categoryorder="array",
                categoryarray=[*ROUTES.values()],
                range=[1.5, -0.5],
                automargin=True,
                showgrid=False,
            ),
        ),
    }
    spoken = "; ".join(f"{ROUTES[route].lower()} {total:.3g} {unit}" for route, total in totals.items())
    shown = {part: name for part, name in names.items() if any(part in found for found in parts.values())}
    swatches = "".join(
        f'<span><i class="bar" style="background:{_COLOURS[part]}"></i><b>{name}</b></span>'
        for part, name in shown.items()
    )
    return Panel(
        title=f"{title}<em>lower is better</em>",
        facts=[Fact(text=f'<span class="result-key">{swatches}</span>')],
        figure=figure,
        spoken=f"{title}: {spoken}.",
    )


def _totals(totals: Mapping[str, float], *, unit: str) -> dict[str, Any]:
    """The sum at the end of every bar."""
    return {
        "type": "scatter",
        "mode": "text",
        "uid": "words-all",
        "x": list(totals.values()),
        "y": [ROUTES[route] for route in totals],
        "text": [f"  {total:.3g} {unit}" for total in totals.values()],
        "textposition": "middle right",
        "cliponaxis": False,
        "hoverinfo": "skip",
    }


def _sum(parts: Mapping[str, float]) -> float:
    return sum(parts.values())


def _ratio(latent: float, rgb: float) -> str:
    return f"{100 * latent / rgb:.0f} %" if rgb else "–"
