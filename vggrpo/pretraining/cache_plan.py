"""What ``train-lgm`` will keep on disk, said before it begins."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from vggrpo.pretraining.reading_cache import reading_bytes
from vggrpo.runtime.errors import UserError

_GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSizes:
    """One clip: its video N, H, W, its latents C, T, h, w, and a frame as Φ sees it (pixels H, W; tokens; width)."""

    video: tuple[int, int, int]
    latents: tuple[int, int, int, int]
    image: tuple[int, int]
    tokens: int
    token_dim: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CachePlan:
    """Bytes, at most: latents in float32, generated clips (latents in bfloat16, frames in uint8), Φ's readings."""

    latents: int
    generated: int
    readings: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.latents + self.generated + self.readings

    def describe(self, cache: Path) -> str:
        """One line for people."""
        parts = ", ".join(
            f"{name} {size / _GIB:.2f}"
            for name, size in (
                ("latents", self.latents),
                ("generated clips", self.generated),
                ("readings of Φ", self.readings),
            )
        )
        return f"on disk: at most {self.total / _GIB:.2f} GiB ({parts}) in {cache} and the output folder"

    def require_room(self, cache: Path, *, limit_gib: float) -> None:
        """Refuse what exceeds the limit, or the disk (what is there already counts as room).

        Raises:
            UserError: with the options that make it smaller.
        """
        smaller = "give fewer --clips, --generated-clips or --taught-frames"
        if self.total > limit_gib * _GIB:
            raise UserError(
                f"The clips would take {self.total / _GIB:.2f} GiB on disk, --cache-gib allows {limit_gib:g}: "
                f"raise it, or {smaller}."
            )
        place = next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())
        kept = sum(file.stat().st_size for folder in place.glob("[lr]*-*") for file in folder.glob("*.safetensors"))
        free = shutil.disk_usage(place).free
        if self.total - kept > free:
            raise UserError(
                f"The clips would take {self.total / _GIB:.2f} GiB and {place} has {free / _GIB:.2f} GiB left: "
                f"free space, name another --cache, or {smaller}."
            )


def plan_cache(sizes: ClipSizes, *, clips: int, generated: int, taught: int) -> CachePlan:
    """The plan for ``clips`` encoded and ``generated`` clips, with Φ's readings of ``taught`` frames of each."""
    numbers = math.prod(sizes.latents)
    reading = reading_bytes(
        pixels=math.prod(sizes.image),
        tokens=sizes.tokens,
        token_dim=sizes.token_dim,
        num_frames=sizes.video[0],
        taught=taught,
    )
    return CachePlan(
        latents=4 * numbers * clips,
        generated=(2 * numbers + 3 * math.prod(sizes.video)) * generated,
        readings=reading * (clips + generated) if taught else 0,
    )
