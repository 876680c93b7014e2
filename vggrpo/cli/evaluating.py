"""``evaluate assets``: the embedded weights against their targets. ``evaluate jitter``: what the reward can see."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from vggrpo.cli.evaluate_commands import EvaluateAssets, EvaluateJitter
from vggrpo.cli.model_choice import check_choice, open_studio
from vggrpo.cli.terminal import Outcome, PhaseProgress
from vggrpo.presets import Preset
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_bytes, atomic_write_text, require_writable

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

    from vggrpo.evaluation.asset_clips import AssetModels
    from vggrpo.evaluation.asset_rows import Row
    from vggrpo.evaluation.assets import AssetEvaluation, Denoise
    from vggrpo.generation import Studio

EVALUATION = "evaluation.json"
JITTER = "jitter.json"
SHEET = "clips.png"
SHIPPED_SHEET = "clips.webp"
"""The same picture among the assets, an eighth of its size."""
MANIFEST_ENTRY = "evaluation"
_MOST_CLIPS = 4096
_MOST_BATCH = 256
_VERDICTS = {True: "reached", False: "not reached", None: ""}


def run(command: EvaluateAssets | EvaluateJitter) -> Outcome:
    """Everything that can be wrong with the request is said before a model is loaded."""
    preset = _check(command)
    return _run_jitter(command, preset) if isinstance(command, EvaluateJitter) else _run_assets(command, preset)


def _run_assets(command: EvaluateAssets, preset: Preset) -> Outcome:
    """Every weight on true and generated clips."""
    with PhaseProgress() as progress:
        progress.phase("load")
        from vggrpo.evaluation.assets import HeldOutClips, evaluate_assets
        from vggrpo.evaluation.contact_sheet import draw_contact_sheet
        from vggrpo.pretraining.data import ClipCache, default_cache

        judge = _judge_folder(command, preset)
        studio = open_studio(command, progress)
        cache = ClipCache(folder=default_cache(), num_frames=preset.num_frames, size=preset.height)
        evaluation = evaluate_assets(
            models_to_measure(studio, judge=judge),
            HeldOutClips(count=command.clips, first_seed=command.seed, batch=command.batch),
            clip_of=cache.clip,
            denoise=_denoise(studio, command),
            weight_bytes=None if command.model_folder else shipped_weight_bytes(preset),
            on_progress=progress.show,
        )
    content = evaluation.to_json() | _about(command, studio, judge)
    if command.out is not None:
        _write(command.out, evaluation, content)
    if command.record:
        record_evaluation(preset, content, sheet=draw_contact_sheet(evaluation.sheet))
    return Outcome(result=content, shown=evaluation_table(evaluation.rows, title=_title(command, evaluation)))


def _run_jitter(command: EvaluateJitter, preset: Preset) -> Outcome:
    """The same worlds filmed steadily and shaken, through every stage."""
    with PhaseProgress() as progress:
        progress.phase("load")
        from vggrpo.evaluation.jitter_sight import measure_jitter_sight
        from vggrpo.types import WorldClip
        from vggrpo.worlds import make_clip

        studio = open_studio(command, progress)

        def film(seed: int, shaken: bool) -> WorldClip:  # noqa: FBT001 - a callback
            return make_clip(
                seed, num_frames=preset.num_frames, height=preset.height, width=preset.width, jitter=shaken
            )

        sight = measure_jitter_sight(
            models_to_measure(studio),
            worlds=command.clips,
            first_seed=command.seed,
            film=film,
            on_world=progress.counter("worlds", total=command.clips),
        )
    rows = sight.rows()
    content: dict[str, object] = {
        "worlds": command.clips,
        "first_seed": command.seed,
        "rows": {row.key: row.to_json() for row in rows},
        "preset": preset.name,
        "device": _device(studio),
    }
    if command.out is not None:
        from vggrpo.runtime.run_folder import write_json

        command.out.mkdir(parents=True, exist_ok=True)
        write_json(command.out / JITTER, content)
    title = f"{command.preset}: {command.clips} held-out worlds, each filmed steadily and shaken"
    return Outcome(result=content, shown=evaluation_table(rows, title=title))


def evaluation_table(rows: "Sequence[Row]", *, title: str) -> Table:
    """The rows for people, part by part; rows without a target explain the one above. Reasons stand below."""
    table = Table(title=title, title_justify="left", caption_justify="left", pad_edge=False)
    for heading in ("", "value", "95 % interval", "over", "target", "verdict"):
        table.add_column(heading, justify="right" if heading in {"value", "over", "target"} else "left")
    reasons: list[str] = []
    part = ""
    for row in rows:
        if row.part and row.part != part:
            part = row.part
            table.add_section()
            table.add_row(part, style="bold")
        table.add_row(*_cells(row, reasons), style="" if row.goal else "dim")
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    marked = [f"[{index}] {reason}" for index, reason in enumerate(reasons, start=1)]
    table.caption = Text("\n".join([*marked, *notes]))
    return table


def _cells(row: "Row", reasons: list[str]) -> tuple[str, ...]:
    """One line of the table; a new reason is added to ``reasons`` and cited by its number."""
    from vggrpo.evaluation.asset_rows import show_number

    found = row.estimate
    value = show_number(found.value, unit=row.unit)
    if found.reason is not None:
        if found.reason not in reasons:
            reasons.append(found.reason)
        value = f"{value} [{reasons.index(found.reason) + 1}]"
    low, high = (show_number(end, unit=row.unit) for end in (found.low, found.high))
    return (
        f"  {row.name}" if row.goal else f"    {row.name}",
        value,
        "–" if found.interval == "none" else f"{low} to {high}",
        f"{found.n} {found.of if found.n > 1 else found.of.removesuffix('s')}" if found.n else "–",
        "" if row.goal is None else str(row.goal),
        _VERDICTS[row.reached] if found.is_measured else "not measured",
    )


def _check(command: EvaluateAssets | EvaluateJitter) -> Preset:
    """The preset; raises a UserError for the first thing that is wrong."""
    from vggrpo.worlds import FIRST_TRAINING_SEED

    preset = check_choice(command)
    if not preset.closed_vocabulary:
        raise UserError(
            f"evaluate assets and jitter measure the embedded model on its own world; {preset.name} has another."
        )
    if not 1 <= command.clips <= _MOST_CLIPS:
        raise UserError(f"{command.clips} clips were asked for; give 1 to {_MOST_CLIPS}.")
    # As many again are drawn behind them, for the yardstick of the Fréchet distance.
    last = FIRST_TRAINING_SEED - 2 * command.clips
    if not 0 <= command.seed <= last:
        raise UserError(f"The seed is {command.seed}; give 0 to {last}, the held-out worlds.")
    if command.out is not None:
        require_writable(command.out)
    if isinstance(command, EvaluateAssets):
        _check_assets(command, preset)
    return preset


def _check_assets(command: EvaluateAssets, preset: Preset) -> None:
    if not 1 <= command.batch <= _MOST_BATCH:
        raise UserError(f"A batch of {command.batch} was asked for; give 1 to {_MOST_BATCH}.")
    for path in (command.judge, command.adapter):
        if path is not None and not path.exists():
            raise UserError(f"{path} does not exist.")
    if command.record and (preset.folders is None or command.adapter or command.model_folder):
        raise UserError("--record notes the numbers of the shipped weights, as they are: leave it out here.")


def _judge_folder(command: EvaluateAssets, preset: Preset) -> Path | None:
    """The judge that was named, else the shipped one, else none."""
    if command.judge is not None:
        return command.judge
    shipped = None if preset.folders is None else preset.folders.object_judge
    return shipped if shipped is not None and shipped.is_dir() else None


def models_to_measure(studio: "Studio", *, judge: Path | None = None) -> "AssetModels":
    """The loaded VAE, Φ and Φ_g, with the judge of objects that a folder holds."""
    from vggrpo.evaluation.asset_clips import AssetModels
    from vggrpo.evaluation.object_judge import ObjectJudge

    return AssetModels(
        vae=studio.vae,
        geometry=studio.models.geometry,
        latent_geometry=studio.models.latent_geometry,
        judge=None if judge is None else ObjectJudge.load(judge),
        device=studio.models.device,
    )


def _denoise(studio: "Studio", command: EvaluateAssets) -> "Denoise":
    """The preset's own sampler, with an adapter if one was named."""
    from vggrpo.evaluation.assets import PromptSeed
    from vggrpo.generation import GenerateRequest
    from vggrpo.generation.batch import denoise_batch
    from vggrpo.types import Latents

    def denoise(prompts: Sequence[PromptSeed]) -> Latents:
        requests = [
            GenerateRequest(prompt=item.prompt, seed=item.seed, preset=command.preset, adapter=command.adapter)
            for item in prompts
        ]
        return denoise_batch(studio, requests)

    return denoise


def shipped_weight_bytes(preset: Preset) -> list[int] | None:
    """The sizes of all safetensors that ship with a preset, but for those of example runs."""
    if preset.folders is None:
        return None
    root = preset.folders.root
    paths = [path for path in root.rglob("*.safetensors") if path.relative_to(root).parts[0] != "examples"]
    return [path.stat().st_size for path in paths]


def _about(command: EvaluateAssets, studio: "Studio", judge: Path | None) -> dict[str, object]:
    """What was measured, with which settings."""
    preset = studio.preset
    return {
        "preset": preset.name,
        "adapter": None if command.adapter is None else command.adapter.name,
        "judge": None if judge is None else judge.name,
        "sampler": {"steps": preset.steps, "guidance": preset.guidance, "flow_shift": preset.flow_shift},
        "device": _device(studio),
    }


def _device(studio: "Studio") -> str:
    import platform

    import torch

    return f"{studio.models.device} ({platform.machine()}, {torch.get_num_threads()} thread(s))"


def _write(out: Path, evaluation: "AssetEvaluation", content: dict[str, object]) -> None:
    """``evaluation.json`` and the sheet of clips."""
    from vggrpo.evaluation.contact_sheet import draw_contact_sheet
    from vggrpo.runtime.run_folder import write_json

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / EVALUATION, content)
    atomic_write_bytes(out / SHEET, _encoded(draw_contact_sheet(evaluation.sheet), "PNG", optimize=True))


def _encoded(picture: "UInt8[np.ndarray, 'height width 3']", kind: str, **options: int) -> bytes:
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.fromarray(picture).save(file, format=kind, **options)
    return file.getvalue()


def record_evaluation(
    preset: Preset, content: dict[str, object], *, sheet: "UInt8[np.ndarray, 'height width 3']"
) -> None:
    """Put the numbers into the MANIFEST, beside how the weights were made, and the sheet of clips next to it."""
    if preset.folders is None:
        return
    atomic_write_bytes(preset.folders.manifest.with_name(SHIPPED_SHEET), _encoded(sheet, "WEBP", quality=82))
    manifest = json.loads(preset.folders.manifest.read_text(encoding="utf-8"))
    manifest[MANIFEST_ENTRY] = content
    atomic_write_text(preset.folders.manifest, json.dumps(manifest, indent=2, allow_nan=False) + "\n")


def _title(command: EvaluateAssets, evaluation: "AssetEvaluation") -> str:
    tuned = "" if command.adapter is None else f" with {command.adapter.name}"
    last = command.seed + command.clips - 1
    return (
        f"{command.preset}{tuned}: {command.clips} held-out clips (seeds {command.seed} to {last}), "
        f"{evaluation.seconds:.0f} s"
    )
