"""What is asked for, checked before anything is loaded, and how far it has come."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, ImageOps, UnidentifiedImageError

from vggrpo.policy.guidance import RewardGuidance
from vggrpo.presets import PRESETS, get_preset
from vggrpo.runtime.errors import UserError

MAX_SEED = 2**63 - 1
MAX_STEPS = 200
MAX_GUIDANCE = 30.0
MAX_PROMPT_CHARACTERS = 2000
MAX_IMAGE_PIXELS = 40_000_000
MIN_IMAGE_SIDE = 16

RewardSpaceName = Literal["latent", "rgb"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateRequest:
    """One generation. ``steps`` and ``guidance`` None take the preset's; raises a UserError for what cannot be.

    ``guidance`` is how strictly the video follows the prompt, ``reward_guidance`` how rewards steer it (None: not).
    """

    prompt: str
    preset: str = "tiny"
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    first_frame: Path | None = None
    adapter: Path | None = None
    reward_guidance: RewardGuidance | None = None
    reward_space: RewardSpaceName = "latent"
    """Geometry is read from latents by Φ_g, or by Φ from the decoded video, which needs no trained Φ_g."""

    def __post_init__(self) -> None:
        """Refuse what cannot be generated."""
        preset = get_preset(self.preset)
        if not self.prompt.strip():
            raise UserError("The prompt is empty: describe a scene, for example 'a red sphere on a grey tiled floor'.")
        if len(self.prompt) > MAX_PROMPT_CHARACTERS:
            raise UserError(f"The prompt has {len(self.prompt)} characters; give at most {MAX_PROMPT_CHARACTERS}.")
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"The seed is {self.seed}; give a whole number from 0 to {MAX_SEED}.")
        if self.steps is not None and not 1 <= self.steps <= MAX_STEPS:
            raise UserError(f"{self.steps} denoising steps were asked for; give 1 to {MAX_STEPS}.")
        if self.guidance is not None and not (math.isfinite(self.guidance) and 1 <= self.guidance <= MAX_GUIDANCE):
            raise UserError(f"The guidance scale is {self.guidance}; give 1 (off) to {MAX_GUIDANCE:g}.")
        steps = preset.steps if self.steps is None else self.steps
        if self.reward_guidance is not None and self.reward_guidance.every > steps:
            raise UserError(f"Reward guidance every {self.reward_guidance.every} steps never acts in {steps} steps.")
        if self.reward_guidance is not None and self.reward_space == "rgb":
            raise UserError("Rewards guide through the latent geometry model: leave out --reward-space rgb.")
        if self.first_frame is not None and not preset.takes_first_frame:
            able = " or ".join(name for name, other in PRESETS.items() if other.takes_first_frame)
            raise UserError(f"{preset.name} makes video from text alone: leave out the first frame, or take {able}.")
        for path in (self.first_frame, self.adapter):
            if path is not None and not path.exists():
                raise UserError(f"{path} does not exist.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """``done`` of ``total`` steps of a phase, and an estimate of the seconds left in all (None: not known yet)."""

    phase: str
    done: int
    total: int
    seconds_left: float | None


PHASES = ("load", "text", "denoise", "decode", "geometry", "rewards", "recording")


def read_first_frame(path: Path, *, height: int, width: int) -> Image.Image:
    """An image file, turned upright, cropped in the middle and resized. Raises a UserError."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise UserError(f"{path} has {image.width} × {image.height} pixels; give a smaller image.")
            if min(image.size) < MIN_IMAGE_SIDE:
                raise UserError(
                    f"{path} has {image.width} × {image.height} pixels; give at least {MIN_IMAGE_SIDE} a side."
                )
            return ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (width, height))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise UserError(f"{path} cannot be read as an image: give a PNG or JPEG file.") from error
