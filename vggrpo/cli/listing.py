"""``presets``: what there is, what it takes and under which licence; nothing is loaded or fetched."""

from dataclasses import asdict, fields

from rich.table import Table

from vggrpo.cli.terminal import Outcome
from vggrpo.presets import PRESETS, Preset
from vggrpo.runtime.hub import cached

OWN_LICENCE = "Apache-2.0"
_INSIDE = {"name", "folders", "hub", "sizes"}
"""Parts of a preset that say nothing to people."""


def list_presets() -> Outcome:
    """Every preset with its sizes, licence, needs, and whether its weights are at hand."""
    table = Table(title="Presets", title_justify="left")
    for heading in ("name", "video", "runs on", "weights", "licence"):
        # A name that is cut off could not be typed.
        table.add_column(heading, no_wrap=heading == "name")
    shown: dict[str, object] = {}
    for name, preset in PRESETS.items():
        weights, licence = weights_at_hand(preset), OWN_LICENCE if preset.hub is None else preset.hub.licence
        table.add_row(
            name,
            f"{preset.width}×{preset.height}, {preset.num_frames} frames, {preset.fps} fps",
            preset.memory_need,
            weights,
            licence,
        )
        numbers = {item.name: getattr(preset, item.name) for item in fields(preset) if item.name not in _INSIDE}
        source = None if preset.hub is None else asdict(preset.hub) | {"patterns": list(preset.hub.patterns)}
        shown[name] = numbers | {"weights": weights, "licence": licence, "hub": source}
    table.caption = "\n".join(f"{name}: {preset.summary}" for name, preset in PRESETS.items())
    table.caption_justify = "left"
    return Outcome(result={"presets": shown}, shown=table)


def weights_at_hand(preset: Preset) -> str:
    """Where the video model's weights are, in a few words."""
    if preset.hub is None:
        return "random" if preset.folders is None else "shipped"
    if cached(preset.hub) is not None:
        return "in the cache"
    return f"to fetch, {preset.hub.gigabytes:g} GB"
