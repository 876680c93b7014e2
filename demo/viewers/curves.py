"""Per-frame curves of every reward, of a run or of a pair: small multiples over one time axis, no second colour.

The figure carries structure only; ``stage.css`` paints it, so that it follows the theme. An invisible trace in every
row has a point at every frame, so hovering anywhere names a frame even where a reward is not defined.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from demo.pair_results import PairResult
from demo.results import RewardTrace, RunResult
from demo.viewers.table import format_value

ROW_HEIGHT = 72
"""Height of one reward's row in pixels."""

_GAP = 0.16
"""Share of a row that separates it from the next."""


def reward_figure(run: RunResult) -> dict[str, Any]:
    """A plotly figure as JSON: one row a reward, x = frame."""
    import plotly.graph_objects as go

    rows = len(run.rewards)
    figure = go.Figure()
    axes: dict[str, Any] = {}
    for row, trace in enumerate(run.rewards):
        suffix = "" if row == 0 else str(row + 1)
        top = 1.0 - row / rows
        axes[f"yaxis{suffix}"] = _value_axis([trace], domain=(top - (1.0 - _GAP) / rows, top))
        _add_curve(figure, trace, axis=f"y{suffix}", kind="run")
        _add_clock(figure, [trace], num_frames=run.num_frames, axis=f"y{suffix}")
    return _laid_out(figure, axes=axes, rows=rows, num_frames=run.num_frames)


def pair_figure(pair: PairResult) -> dict[str, Any]:
    """The same with two curves a row: the base under the tuned one. ``stage.css`` tells them apart by their class."""
    import plotly.graph_objects as go

    shared = shared_rewards(pair)
    figure = go.Figure()
    axes: dict[str, Any] = {}
    for row, (base, tuned) in enumerate(shared):
        suffix = "" if row == 0 else str(row + 1)
        top = 1.0 - row / len(shared)
        axes[f"yaxis{suffix}"] = _value_axis([base, tuned], domain=(top - (1.0 - _GAP) / len(shared), top))
        _add_curve(figure, base, axis=f"y{suffix}", kind="base")
        _add_curve(figure, tuned, axis=f"y{suffix}", kind="tuned")
        _add_clock(figure, [base, tuned], num_frames=pair.num_frames, axis=f"y{suffix}")
    return _laid_out(figure, axes=axes, rows=len(shared), num_frames=pair.num_frames)


def shared_rewards(pair: PairResult) -> list[tuple[RewardTrace, RewardTrace]]:
    """Rewards that both sides have, in the order of the base."""
    tuned = {trace.name: trace for trace in pair.tuned.run.rewards}
    return [(trace, tuned[trace.name]) for trace in pair.base.run.rewards if trace.name in tuned]


def _laid_out(figure: Any, *, axes: dict[str, Any], rows: int, num_frames: int) -> dict[str, Any]:
    """The figure as JSON with the layout that all of them share."""
    figure.update_layout(
        **axes,
        height=ROW_HEIGHT * rows,
        margin={"l": 0, "r": 44, "t": 4, "b": 4},
        showlegend=False,
        hovermode="x",
        hoverdistance=-1,
        dragmode=False,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis={
            "range": [-0.5, num_frames - 0.5],
            "fixedrange": True,
            "showgrid": False,
            "zeroline": False,
            "showticklabels": False,
        },
    )
    return figure.to_plotly_json()


def _add_curve(figure: Any, trace: RewardTrace, *, axis: str, kind: str) -> None:
    """The curve and its worst frames as dots; ``kind`` is part of its class in the page."""
    values = [None if np.isnan(value) else float(value) for value in trace.per_frame]
    frames = list(range(len(values)))
    figure.add_scatter(
        x=frames,
        y=values,
        yaxis=axis,
        uid=f"{kind}-{trace.name}",
        name=trace.name,
        mode="lines",
        connectgaps=False,
        hoverinfo="skip",
    )
    marked = marked_frames(trace)
    figure.add_scatter(
        x=list(marked),
        y=[values[frame] for frame in marked],
        yaxis=axis,
        uid=f"{kind}-{trace.name}-worst",
        name=f"{trace.name} worst",
        mode="markers",
        marker={"size": 7},
        hoverinfo="skip",
    )


def _add_clock(figure: Any, traces: Sequence[RewardTrace], *, num_frames: int, axis: str) -> None:
    """The invisible trace that names a frame wherever the pointer is."""
    values = np.concatenate([trace.per_frame for trace in traces])
    measured = values[~np.isnan(values)]
    middle = float(measured.mean()) if measured.size else 0.0
    figure.add_scatter(
        x=list(range(num_frames)),
        y=[middle] * num_frames,
        yaxis=axis,
        uid=f"clock-{axis}",
        name="clock",
        mode="markers",
        opacity=0.0,
        hoverinfo="none",
    )


def marked_frames(trace: RewardTrace) -> tuple[int, ...]:
    """The frames worth a look: those the reward names as worst, else its lowest one."""
    named = tuple(frame for frame in trace.worst_frames if not np.isnan(trace.per_frame[frame]))
    if named:
        return named
    return () if trace.lowest_frame is None else (trace.lowest_frame,)


def _ends(low: float, high: float) -> list[float]:
    """Both ends of a row, or one where they read the same."""
    return [low] if format_value(low) == format_value(high) else [low, high]


def _value_axis(traces: Sequence[RewardTrace], *, domain: tuple[float, float]) -> dict[str, Any]:
    """The row's own scale with its two ends labelled on the right."""
    values = np.concatenate([trace.per_frame for trace in traces])
    measured = values[~np.isnan(values)]
    low, high = (float(measured.min()), float(measured.max())) if measured.size else (0.0, 1.0)
    room = max(high - low, 1e-3)
    ends = _ends(low, high) if measured.size else []
    return {
        "domain": [max(domain[0], 0.0), min(domain[1], 1.0)],
        "anchor": "x",
        "range": [low - 0.12 * room, high + 0.12 * room],
        "tickvals": ends,
        "ticktext": [format_value(end) for end in ends],
        "side": "right",
        "fixedrange": True,
        "zeroline": False,
        "showgrid": True,
    }
