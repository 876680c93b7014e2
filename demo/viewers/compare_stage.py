"""The stage of a pair: two videos, two scenes and both sides' rewards on the one clock that the stage of a run has."""

from typing import Any

import gradio as gr
import numpy as np

from demo.pair_results import PairResult, SideRun
from demo.results import VIDEO, RewardTrace
from demo.text import (
    COLOUR_LEGENDS,
    COLOUR_NAMES,
    EMPTY_COMPARE_HINT,
    EMPTY_COMPARE_TITLE,
)
from demo.viewers.curves import pair_figure, shared_rewards
from demo.viewers.stage import PageFiles, downloads, file_url, stage_script
from demo.viewers.table import describe, format_value


def build_compare_stage() -> gr.HTML:
    """The component. Its value is ``pair_payload`` or None; all its state lives in the browser."""
    return gr.HTML(
        value=None,
        html_template='<div class="stage compare" data-frame="0" data-mode="side"></div>',
        js_on_load=stage_script(
            "linked_views.js", "compare.js", empty_title=EMPTY_COMPARE_TITLE, empty_hint=EMPTY_COMPARE_HINT
        ),
        apply_default_css=False,
        elem_id="compare-stage",
    )


def pair_payload(
    pair: PairResult, *, base: PageFiles, tuned: PageFiles, is_example: bool = False, frame: int = 0
) -> dict[str, Any]:
    """The stage's value: URLs, the figure and texts. Colourings are those that both sides have."""
    colours = [colour for colour in base.colours if colour in tuned.colours]
    frames = min(base.num_frames, tuned.num_frames)
    return {
        "id": pair.pair_id,
        "title": pair.prompt or "Untitled pair",
        "facts": _facts(pair, base, is_example=is_example),
        "frames": frames,
        "fps": base.fps,
        "size": list(base.size),
        "frame": min(max(frame, 0), frames - 1),
        "sides": [
            _side("base", pair.base, base, colours=colours),
            _side("tuned", pair.tuned, tuned, colours=colours),
        ],
        "colours": [
            {"id": colour, "name": COLOUR_NAMES[colour], "legend": COLOUR_LEGENDS[colour]} for colour in colours
        ],
        "missingColours": [name for colour, name in COLOUR_NAMES.items() if colour not in colours],
        "strips": [
            {"name": name, "label": label, "url": file_url(files.folder / "rgb.jpg")}
            for name, label, files in (("base", "Base", base), ("tuned", "Tuned", tuned))
        ],
        "figure": pair_figure(pair),
        "terms": [_term(base_trace, tuned_trace) for base_trace, tuned_trace in shared_rewards(pair)],
        "guards": _guards(pair),
        "worst": _largest_gaps(pair),
    }


def _side(name: str, side: SideRun, files: PageFiles, *, colours: list[str]) -> dict[str, Any]:
    """Everything of one side that has an address."""
    video = side.run.folder / VIDEO
    return {
        "name": name,
        "label": side.label,
        "run": side.run.run_id,
        "video": file_url(video) if video.exists() else None,
        "recording": file_url(files.folder / "stage.viser"),
        "maps": {colour: file_url(files.folder / f"{colour}.jpg") for colour in colours},
        "blocks": {colour: files.colours.index(colour) for colour in colours},
        "downloads": [item | {"saveAs": f"{name}-{item['file']}"} for item in downloads(side.run, files)],
    }


def _facts(pair: PairResult, files: PageFiles, *, is_example: bool) -> list[str]:
    """The line under the title."""
    height, width = pair.base.run.size or files.size
    facts = [
        "Example" if is_example else "",
        f"{pair.base.label} against {pair.tuned.label}",
        "" if pair.seed is None else f"seed {pair.seed}",
        pair.base.run.preset,
        f"{files.num_frames} frames of {width}×{height} at {files.fps:g} fps",
    ]
    return [fact for fact in facts if fact]


def _term(base: RewardTrace, tuned: RewardTrace) -> dict[str, Any]:
    """One reward of both sides: values, their difference, and every frame in words and as shares of the scale."""
    text = describe(base.name)
    frames = range(min(len(base.per_frame), len(tuned.per_frame)))

    def share(value: float) -> float | None:
        place = (value - text.lowest) / (text.highest - text.lowest)
        return None if np.isnan(value) else min(max(float(place), 0.0), 1.0)

    return {
        "label": text.label,
        "tip": text.short,
        "values": [format_value(base.value), format_value(tuned.value)],
        "difference": format_change(base.value, tuned.value),
        "perFrame": [[_at(base, frame), _at(tuned, frame)] for frame in frames],
        "shares": [[share(base.per_frame[frame]), share(tuned.per_frame[frame])] for frame in frames],
    }


def _at(trace: RewardTrace, frame: int) -> str:
    value = trace.per_frame[frame]
    return format_value(None if np.isnan(value) else float(value))


def format_change(base: float | None, tuned: float | None) -> str:
    """tuned − base with its sign, or a dash where one of them is missing."""
    if base is None or tuned is None:
        return format_value(None)
    text = format_value(tuned - base)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"


def _guards(pair: PairResult) -> list[dict[str, Any]]:
    """Guards that both sides have."""
    base, tuned = pair.base.run.guards, pair.tuned.run.guards
    return [
        {
            "label": describe(name).label,
            "tip": describe(name).short,
            "values": [format_value(base[name]), format_value(tuned[name])],
            "difference": format_change(base[name], tuned[name]),
        }
        for name in base
        if name in tuned
    ]


def _largest_gaps(pair: PairResult) -> list[dict[str, Any]]:
    """For each reward the frame at which the sides differ most."""
    found = []
    for base, tuned in shared_rewards(pair):
        length = min(len(base.per_frame), len(tuned.per_frame))
        gap = np.abs(tuned.per_frame[:length] - base.per_frame[:length])
        if np.nanmax(gap, initial=0.0) > 0:
            found.append({"frame": int(np.nanargmax(gap)), "term": describe(base.name).brief})
    return found
