"""A fine-tune as the board shows it: title, state, curves, samples, log and files, as one small dictionary.

The figures carry structure only, like the stage's curves; ``stage.css`` paints them. They are written as plain
dictionaries: the board asks again every second, and plotly's own classes would cost more than everything else here.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo.finetune_text import CURVES, GUARD_CURVES, LOG_LINES, PHASE_NAMES, SOMEBODY_ELSES, STATES, TAKE_AWAY
from demo.outcomes import Finetune, Outcome
from demo.training_runs import CONFIG, LOG, METRICS, History, find_adapter, read_history, read_samples, tail
from demo.viewers.stage import file_url
from demo.viewers.table import describe, format_value

ROW_HEIGHT = 76
"""Height of one curve in pixels."""
MOST_POINTS = 600
"""Iterations of a longer run are thinned to this many."""

_ROOT = str(Path(__file__).resolve().parents[2])
_GAP = 0.2
"""Share of a row that separates it from the next."""
_REWARD_ORDER = ("motion_smoothness", "geometry_consistency", "scene_smoothness")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One row of the board: training values, optionally their spread and the held-out values, by iteration."""

    label: str
    tip: str
    values: NDArray[np.float64]
    spread: NDArray[np.float64] | None = None
    held_out: NDArray[np.float64] | None = None


def board(finetune: Finetune, *, is_mine: bool = True) -> dict[str, Any]:
    """Everything that the board shows of one fine-tune; whose it is not may look only."""
    job, outcome = finetune.job, finetune.outcome
    history = read_history(job.run)
    return {
        "job": job.job_id,
        "title": finetune.title,
        "facts": [*_facts(finetune), *([] if is_mine else [SOMEBODY_ELSES])],
        "state": outcome.state,
        "stateName": STATES[outcome.state],
        "isActive": outcome.is_active,
        "line": _line(outcome),
        "iteration": outcome.iteration,
        "share": 100.0 * outcome.iteration / outcome.iterations if outcome.iterations else 0.0,
        "message": outcome.message,
        "isMine": is_mine,
        "canResume": outcome.can_resume,
        "hasAdapter": find_adapter(job.run) is not None,
        "columns": [
            _column("Rewards", reward_curves(history), history, total=outcome.iterations),
            _column("Policy", policy_curves(history), history, total=outcome.iterations),
            _column("Time", time_curves(history), history, total=outcome.iterations),
        ],
        "iterations": _thinned(history).tolist(),
        "time": _time_shares(history),
        "samples": _samples(job.run),
        "log": _log(finetune),
        "files": _files(finetune),
        "prompts": _prompts(finetune),
    }


def reward_curves(history: History) -> list[Curve]:
    """Every reward with its spread and its held-out mean, and the guard beside them."""
    names = [name.split("/")[1] for name in history.series if name.startswith("reward/") and name.endswith("/mean")]
    names += [name.split("/")[1] for name in history.series if name.startswith("eval/") and name.endswith("/mean")]
    known = [name for name in dict.fromkeys(names) if f"reward/{name}/mean" in history.series]
    known.sort(key=lambda name: _REWARD_ORDER.index(name) if name in _REWARD_ORDER else len(_REWARD_ORDER))
    curves = [
        Curve(
            label=describe(name).label,
            tip=describe(name).short,
            values=history.get(f"reward/{name}/mean"),
            spread=history.get(f"reward/{name}/std"),
            held_out=history.get(f"eval/{name}/mean"),
        )
        for name in known
    ]
    for key, text in GUARD_CURVES.items():
        if key in history.series:
            held_out = history.get(f"eval/{key.split('/')[1]}/mean") if key.startswith("guard/") else None
            curves.append(Curve(label=text.label, tip=text.short, values=history.get(key), held_out=held_out))
    return curves


def policy_curves(history: History) -> list[Curve]:
    """Distance to the base model, clipping, ratio, gradient."""
    return [
        Curve(label=text.label, tip=text.short, values=history.get(key))
        for key, text in CURVES.items()
        if key in history.series
    ]


def time_curves(history: History) -> list[Curve]:
    """How long an iteration takes, all phases together."""
    phases = [history.get(f"time/{name}") for name in PHASE_NAMES if f"time/{name}" in history.series]
    if not phases:
        return []
    seconds = np.nansum(phases, axis=0)
    seconds[np.isnan(phases).all(axis=0)] = np.nan
    return [Curve(label="Seconds", tip="Time of an iteration, all phases together", values=seconds)]


def _column(title: str, curves: Sequence[Curve], history: History, *, total: int) -> dict[str, Any]:
    """Names, values and the figure of one column of curves over the iterations of the whole run."""
    picked = _thinned(history)
    return {
        "title": title,
        "rows": [
            {
                "label": curve.label,
                "tip": curve.tip,
                "values": _shown(history, curve.values, picked),
                "spread": _shown(history, curve.spread, picked),
                "heldOut": _shown(history, curve.held_out, picked),
            }
            for curve in curves
        ],
        "figure": _figure(curves, history, picked, total=total) if curves else None,
    }


def _figure(curves: Sequence[Curve], history: History, picked: NDArray[np.int64], *, total: int) -> dict[str, Any]:
    """Small multiples over one axis of iterations, as wide as the run will be."""
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "height": ROW_HEIGHT * len(curves),
        "margin": {"l": 0, "r": 52, "t": 4, "b": 4},
        "showlegend": False,
        "hovermode": "x",
        "hoverdistance": -1,
        "dragmode": False,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": {
            "range": [-0.5, max(total, int(picked.max(initial=1))) + 0.5],
            "fixedrange": True,
            "showgrid": False,
            "zeroline": False,
            "showticklabels": False,
        },
    }
    for row, curve in enumerate(curves):
        suffix = "" if row == 0 else str(row + 1)
        top = 1.0 - row / len(curves)
        layout[f"yaxis{suffix}"] = _value_axis(curve, domain=(top - (1.0 - _GAP) / len(curves), top))
        data.extend(_traces(curve, history, picked, axis=f"y{suffix}"))
    return {"data": data, "layout": layout}


def _traces(curve: Curve, history: History, picked: NDArray[np.int64], *, axis: str) -> list[dict[str, Any]]:
    """The mean, held-out points, and an invisible point at every iteration that hovering finds."""
    xs = picked.tolist()
    quiet = {"hoverinfo": "skip"}
    mean = _at(history, curve.values, picked)
    line = {"x": xs, "y": _json(mean), "yaxis": axis, "name": "training", "mode": "lines", "connectgaps": True}
    traces: list[dict[str, Any]] = [line | quiet]
    if curve.held_out is not None and not np.isnan(curve.held_out).all():
        held = _at(history, curve.held_out, picked)
        is_known = ~np.isnan(held)
        points = {"x": picked[is_known].tolist(), "y": held[is_known].tolist(), "yaxis": axis, "name": "held out"}
        traces.append(points | {"mode": "lines+markers", "marker": {"size": 7}} | quiet)
    middle = float(np.nanmean(mean)) if not np.isnan(mean).all() else 0.0
    clock = {"x": xs, "y": [middle] * len(xs), "yaxis": axis, "name": "clock", "mode": "markers"}
    return [*traces, clock | {"opacity": 0.0, "hoverinfo": "none"}]


def _value_axis(curve: Curve, *, domain: tuple[float, float]) -> dict[str, Any]:
    """The row's own scale, its two ends labelled on the right."""
    shown = curve.values if curve.held_out is None else np.concatenate([curve.values, curve.held_out])
    known = shown[~np.isnan(shown)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    room = max(high - low, abs(high) * 1e-3, 1e-9)
    ends = sorted({low, high}) if format_small(low) != format_small(high) else [low]
    return {
        "domain": [max(domain[0], 0.0), min(domain[1], 1.0)],
        "anchor": "x",
        "range": [low - 0.14 * room, high + 0.14 * room],
        "tickvals": ends if known.size else [],
        "ticktext": [format_small(end) for end in ends] if known.size else [],
        "side": "right",
        "fixedrange": True,
        "zeroline": False,
        "showgrid": True,
    }


def format_small(value: float) -> str:
    """As the reward table does, but powers of ten where four decimals would read as nothing."""
    if np.isnan(value):
        return "–"
    if value != 0 and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return f"{value:.1f}" if abs(value) >= 100 else format_value(float(value))


def _thinned(history: History) -> NDArray[np.int64]:
    """The iterations that are drawn: all, or every n-th and always the last."""
    every = max(1, -(-history.count // MOST_POINTS))
    picked = history.iterations[::-1][::every][::-1]
    return picked.astype(np.int64)


def _at(history: History, values: NDArray[np.float64], picked: NDArray[np.int64]) -> NDArray[np.float64]:
    return values[np.isin(history.iterations, picked)]


def _shown(history: History, values: NDArray[np.float64] | None, picked: NDArray[np.int64]) -> list[str] | None:
    """A series as text, or None where there is none."""
    if values is None or np.isnan(values).all():
        return None
    return [format_small(value) for value in _at(history, values, picked)]


def _json(values: NDArray[np.float64]) -> list[float | None]:
    """JSON has no NaN."""
    return [None if np.isnan(value) else float(value) for value in values]


def _facts(finetune: Finetune) -> list[str]:
    """The line under the title."""
    settings = finetune.job.settings
    prompts = len(_prompts(finetune))
    own = f"{prompts} own prompt{'' if prompts == 1 else 's'}"
    return [
        str(settings.get("preset")),
        f"{settings.get('groups')} × {settings.get('group_size')} videos an iteration",
        own if prompts else f"{settings.get('training_captions')} random scenes",
        f"transition {settings.get('transition')}",
        f"learning rate {settings.get('learning_rate')}",
        f"seed {settings.get('seed')}",
    ]


def _prompts(finetune: Finetune) -> list[str]:
    try:
        return finetune.job.prompts.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _line(outcome: Outcome) -> str:
    """State, iteration and remaining time."""
    from demo.training_estimate import duration_text

    parts = [STATES[outcome.state]]
    if outcome.iteration or outcome.state not in {"queued", "starting"}:
        parts.append(f"iteration {outcome.iteration} of {outcome.iterations}")
    if outcome.seconds_left is not None and outcome.state == "running":
        parts.append(f"about {duration_text(outcome.seconds_left)} left")
    return " · ".join(parts)


def _time_shares(history: History) -> list[dict[str, Any]]:
    """Where the time goes, phase by phase, as shares of all of it."""
    seconds = {name: float(np.nansum(history.get(f"time/{name}"))) for name in PHASE_NAMES}
    total = sum(seconds.values())
    if total <= 0:
        return []
    return [
        {"name": PHASE_NAMES[name], "share": 100.0 * spent / total, "seconds": format_value(spent)}
        for name, spent in seconds.items()
        if spent > 0
    ]


def _samples(run: Path) -> list[dict[str, Any]]:
    """Rows of the sample grid; a video's address changes with its content, so that none is shown from a cache."""
    rows = []
    for sample in read_samples(run):
        cells: list[dict[str, Any]] = [] if sample.base is None else [{"step": None, "url": _fresh_url(sample.base)}]
        cells += [{"step": step, "url": _fresh_url(path)} for step, path in sample.tuned.items()]
        rows.append({"name": sample.prompt or f"Sample {sample.index + 1}", "seed": sample.seed, "cells": cells})
    return rows


def _fresh_url(path: Path) -> str:
    try:
        stamp = int(path.stat().st_mtime)
    except OSError:
        stamp = 0
    return f"{file_url(path)}?v={stamp}"


def _log(finetune: Finetune) -> list[str]:
    """The trainer's own log; before it has one, and after a failure, what the process printed, tracebacks included."""
    job = finetune.job
    logs = [job.run / LOG, job.log]
    order = reversed(logs) if finetune.outcome.state == "failed" else logs
    lines = next((found for path in order if (found := tail(path, lines=LOG_LINES))), ())
    return [line.replace(str(job.folder), "…").replace(_ROOT, "…") for line in lines]


def _files(finetune: Finetune) -> list[dict[str, Any]]:
    """What can be taken away now."""
    run, iteration = finetune.job.run, finetune.outcome.iteration
    adapter = find_adapter(run)
    paths = {"adapter": adapter, "metrics": run / METRICS, "config": run / CONFIG, "log": run / LOG}
    found = []
    for name, path in paths.items():
        if path is None or not path.is_file():
            continue
        label, hint, file = TAKE_AWAY[name]
        size = path.stat().st_size
        shown = f"{size / 1e3:.0f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"
        found.append(
            {"name": name, "label": label, "hint": hint, "size": shown, "url": f"{file_url(path)}?v={iteration}"}
            | {"file": file.format(job=finetune.job.job_id, iteration=iteration)}
        )
    return found


def stamp(finetune: Finetune) -> str:
    """Changes whenever the board would: what a visitor already sees need not be sent again."""
    outcome, run = finetune.outcome, finetune.job.run
    seen = [f"{outcome.state} {outcome.message} {outcome.iteration}"]
    for path in (run / METRICS, run / LOG, finetune.job.log, run / "status.json"):
        try:
            facts = path.stat()
            seen.append(f"{facts.st_mtime_ns} {facts.st_size}")
        except OSError:
            seen.append("-")
    seen.append(str(sum(1 for _ in (run / "samples").glob("*/*.mp4"))))
    return "|".join(seen)


def summary(finetune: Finetune) -> dict[str, Any]:
    """One line of the list of fine-tunes."""
    outcome = finetune.outcome
    return {
        "job": finetune.job.job_id,
        "title": finetune.title,
        "state": outcome.state,
        "stateName": STATES[outcome.state],
        "done": f"{outcome.iteration} of {outcome.iterations}",
        "isActive": outcome.is_active,
        "asked": time.strftime("%Y-%m-%d %H:%M", time.localtime(finetune.job.created)),
    }
