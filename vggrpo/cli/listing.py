"""``presets``: answers at once."""

from dataclasses import fields

from rich.table import Table

from vggrpo.cli.terminal import Outcome
from vggrpo.presets import PRESETS, Preset


def list_presets() -> Outcome:
    """Every preset with its sizes."""
    table = Table(title="Presets", title_justify="left")
    for heading in ("name", "video", "steps", "weights", "what it is"):
        table.add_column(heading)
    for preset in PRESETS.values():
        video = f"{preset.num_frames} × {preset.height} × {preset.width}, {preset.fps} fps"
        weights = "random" if preset.folders is None else preset.folders.pipeline.name
        table.add_row(preset.name, video, str(preset.steps), weights, preset.summary)
    return Outcome(result={"presets": {name: _numbers(preset) for name, preset in PRESETS.items()}}, shown=table)


def _numbers(preset: Preset) -> dict[str, object]:
    """What a preset says of itself, without folders and the released model's inside."""
    left_out = {"name", "folders", "hub", "sizes"}
    return {item.name: getattr(preset, item.name) for item in fields(preset) if item.name not in left_out}
