"""``presets``: answers at once."""

from dataclasses import asdict

from rich.table import Table

from vggrpo.cli.terminal import Outcome
from vggrpo.presets import PRESETS


def list_presets() -> Outcome:
    """Every preset with its sizes."""
    table = Table(title="Presets", title_justify="left")
    for heading in ("name", "video", "steps", "weights", "what it is"):
        table.add_column(heading)
    for preset in PRESETS.values():
        video = f"{preset.num_frames} × {preset.height} × {preset.width}, {preset.fps} fps"
        weights = "random" if preset.folders is None else preset.folders.pipeline.name
        table.add_row(preset.name, video, str(preset.steps), weights, preset.summary)
    shown = {name: {k: v for k, v in asdict(p).items() if k not in {"folders", "name"}} for name, p in PRESETS.items()}
    return Outcome(result={"presets": shown}, shown=table)
