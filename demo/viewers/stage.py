"""The stage: one custom component that shows a run with ONE clock for video, 3D, curves and strips.

Python prepares files and a small dictionary of URLs; ``stage.js`` and its parts draw and keep time in the browser.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from demo.results import VIDEO, RunResult, UnreadableRun
from demo.text import COLOUR_LEGENDS, COLOUR_NAMES, DOWNLOADS, EMPTY_STAGE_HINT, EMPTY_STAGE_TITLE, ORIGINS
from demo.viewers.curves import marked_frames, reward_figure
from demo.viewers.strips import write_strip
from demo.viewers.table import describe, format_value, reward_table

_HERE = Path(__file__).parent
PARTS = ("dom.js", "player3d.js", "timeline.js", "clock.js", "parts.js")
"""What the stage of a run and that of a pair are built of."""
STRIPS = {"rgb": "Frames", "depth": "Depth", "flow": "Scene flow"}
"""Maps that have a strip in the timeline."""
_PREPARED = "page.json"
_VERSION = 3
"""Raised when the files below change, so that files of an older page are made anew."""


@dataclass(frozen=True, kw_only=True)
class PageFiles:
    """What the page derives from a run, in ``folder``: one recording, one strip a map, files to download."""

    folder: Path
    num_frames: int
    fps: float
    size: tuple[int, int]
    colours: tuple[str, ...]


def prepare(run: RunResult, *, folder: Path) -> PageFiles:
    """Make the page's files of a run, or find them made. About half a second for 17 frames of 128×128.

    Raises ``UnreadableRun`` where the run holds no geometry.
    """
    prepared = folder / _PREPARED
    if prepared.exists():
        facts = json.loads(prepared.read_text())
        if facts.pop("version") == _VERSION:
            return PageFiles(
                folder=folder, **facts | {"size": tuple(facts["size"]), "colours": tuple(facts["colours"])}
            )
    import scene_export
    from scene_export.colouring import available_colours, colour_scene, colour_scene_flow

    try:
        scene = scene_export.read_scene(run.folder)
    except scene_export.SceneReadError as error:
        raise UnreadableRun(str(error)) from error
    colours = available_colours(scene)
    for colour in colours:
        write_strip(folder / f"{colour}.jpg", colour_scene(scene, colour=colour))
    write_strip(folder / "flow.jpg", colour_scene_flow(scene))
    scene_export.record_all_colours(run.folder, out=folder / "stage.viser")
    _write_downloads(run.folder, folder=folder)
    facts = {"num_frames": scene.num_frames, "fps": scene.fps, "size": scene.size, "colours": colours}
    # Written last: its presence says that all the others are whole.
    prepared.write_text(json.dumps(facts | {"version": _VERSION}))
    return PageFiles(folder=folder, **facts)


def _write_downloads(run_folder: Path, *, folder: Path) -> None:
    """The files of the download menu that the run folder itself does not hold."""
    import scene_export

    recording = run_folder / "scene.viser"
    if not recording.exists():
        recording = scene_export.record_run(run_folder, out=folder / "scene.viser")
    scene_export.export_html(recording, out=folder / "scene.html")
    scene_export.export_ply(run_folder, out=folder / "scene.ply")
    scene_export.export_glb(run_folder, out=folder / "scene.glb")
    scene_export.rewards_csv(run_folder, out=folder / "rewards.csv")


def payload(run: RunResult, files: PageFiles, *, is_example: bool = False, frame: int = 0) -> dict[str, Any]:
    """The stage's value: URLs, the figure and texts."""
    return {
        "id": run.run_id,
        "title": run.prompt or run.source or "Untitled run",
        "facts": _facts(run, files, is_example=is_example),
        "frames": files.num_frames,
        "fps": files.fps,
        "size": list(files.size),
        "frame": min(max(frame, 0), files.num_frames - 1),
        "video": file_url(run.folder / VIDEO) if (run.folder / VIDEO).exists() else None,
        "recording": file_url(files.folder / "stage.viser"),
        "colours": [
            {"id": colour, "name": COLOUR_NAMES[colour], "legend": COLOUR_LEGENDS[colour]} for colour in files.colours
        ],
        "missingColours": [COLOUR_NAMES[colour] for colour in COLOUR_NAMES if colour not in files.colours],
        "maps": {name: file_url(files.folder / f"{name}.jpg") for name in (*files.colours, "flow")},
        "strips": [
            {"name": name, "label": label, "url": file_url(files.folder / f"{name}.jpg")}
            for name, label in STRIPS.items()
            if name in (*files.colours, "flow")
        ],
        "figure": reward_figure(run),
        "terms": [_term(run, position) for position in range(len(run.rewards))],
        "worst": _worst_frames(run),
        "table": reward_table(run),
        "downloads": downloads(run, files),
    }


def downloads(run: RunResult, files: PageFiles) -> list[dict[str, Any]]:
    """The files that this run has, in the order of the menu."""
    found = []
    for name, (label, hint) in DOWNLOADS.items():
        path = next((folder / name for folder in (run.folder, files.folder) if (folder / name).exists()), None)
        if path is not None:
            found.append({"file": name, "label": label, "hint": hint, "size": _size(path), "url": file_url(path)})
    return found


def _size(path: Path) -> str:
    """A file's size for people."""
    kilobytes = path.stat().st_size / 1e3
    return f"{kilobytes:.0f} kB" if kilobytes < 1000 else f"{kilobytes / 1e3:.1f} MB"


def file_url(path: Path) -> str:
    """Gradio's address of a static file, relative to the page."""
    return f"gradio_api/file={quote(str(path.resolve()))}"


def build_stage() -> gr.HTML:
    """The component. Its value is ``payload`` or None; it sends nothing back, all its state lives in the browser.

    A function and not a subclass of ``gr.HTML``: Gradio writes a stub file beside every module that defines one.
    """
    return gr.HTML(
        value=None,
        html_template='<div class="stage" data-frame="0"></div>',
        js_on_load=stage_script("stage.js", empty_title=EMPTY_STAGE_TITLE, empty_hint=EMPTY_STAGE_HINT),
        apply_default_css=False,
        elem_id="stage",
    )


def stage_script(*names: str, empty_title: str, empty_hint: str) -> str:
    """The scripts of a stage after the parts that all stages share, with what never changes as a constant.

    As properties of the component these would be missing where its tab is first seen before it has a value.
    """
    fixed = {
        "player": file_url(player_page()),
        "plotly": file_url(plotly_script()),
        "empty_title": empty_title,
        "empty_hint": empty_hint,
    }
    return f"const fixed = {json.dumps(fixed)};\n{read_scripts(_HERE, (*PARTS, *names))}"


def read_scripts(folder: Path, names: tuple[str, ...]) -> str:
    """Script files as one function body, in order."""
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def _facts(run: RunResult, files: PageFiles, *, is_example: bool) -> list[str]:
    """The line under the title."""
    height, width = run.size or files.size
    facts = ["Example" if is_example else ORIGINS.get(run.kind, "")]
    facts.append("" if run.seed is None else f"seed {run.seed}")
    facts.append(run.preset)
    facts.append(f"{files.num_frames} frames of {width}×{height} at {files.fps:g} fps")
    facts.extend(run.notes)
    facts.append("" if run.seconds is None or is_example else f"{run.seconds:.1f} s")
    return [fact for fact in facts if fact]


def _term(run: RunResult, position: int) -> dict[str, Any]:
    """A row label of the timeline: name, value of the video, values frame by frame."""
    trace = run.rewards[position]
    return {
        "label": describe(trace.name).label,
        "tip": describe(trace.name).short,
        "value": format_value(trace.value),
        "perFrame": [format_value(None if value != value else float(value)) for value in trace.per_frame],
    }


def _worst_frames(run: RunResult) -> list[dict[str, Any]]:
    """Chips: the frames where a reward is lowest, the geometry's worst ones first."""
    order = sorted(run.rewards, key=lambda trace: trace.name != "geometry_consistency")
    return [{"frame": frame, "term": describe(trace.name).label} for trace in order for frame in marked_frames(trace)]


def player_page() -> Path:
    """viser's client."""
    return _package_folder("viser") / "client" / "build" / "index.html"


def plotly_script() -> Path:
    """plotly's own bundle, which its Python package ships."""
    return _package_folder("plotly") / "package_data" / "plotly.min.js"


def _package_folder(name: str) -> Path:
    """Where a package is installed, without the cost of importing it."""
    from importlib.util import find_spec

    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} is not installed; run: pip install -r requirements.txt")
    return Path(spec.origin).parent
