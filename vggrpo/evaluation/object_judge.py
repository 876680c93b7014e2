"""The judge of objects: a small convolutional network that says how many pixels of each (colour, shape) a frame shows.

It learns from the world's exact masks (``pretrain judge``), and reads generated frames. For every cell of 8 × 8 pixels
it gives the shares of the ground and of the 32 kinds of objects; summed up, they are visible pixels. It sees single
frames; a clip is judged by their mean.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_text
from vggrpo.worlds import vocabulary

CELL = 8
"""Pixels a side of a cell."""
KINDS = tuple((colour, shape) for colour in vocabulary.COLOURS for shape in vocabulary.SHAPES)
"""(colour, shape) in the order of the judge's classes; class 0 is everything that is no object."""
VISIBLE_SHARE = 0.004
"""Share of a frame's pixels (mean over the clip) from which an object counts as visible: 65 pixels of 128 × 128."""
MIN_SHAPE_SHARE = 0.5
"""A colour's pixels must be of one shape by at least this share for that shape to count as seen."""
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    """Sizes of the network; ``width`` channels after the first layer, a multiple of 8."""

    width: int = 24
    dilations: tuple[int, ...] = (1, 2, 4)
    """Of the residual layers on the grid of cells: they look as far around as an object is wide."""


class ObjectJudge(nn.Module):
    """Frames in [0, 1] to the share of every class in every cell."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            _Residual(width, dilation=1),
            _down(width, 2 * width),
            _Residual(2 * width, dilation=1),
            _down(2 * width, 4 * width),
            *(_Residual(4 * width, dilation=dilation) for dilation in config.dilations),
            nn.GroupNorm(8, 4 * width),
            nn.SiLU(),
        )
        self.classes = nn.Conv2d(4 * width, 1 + len(vocabulary.COLOURS) + len(vocabulary.SHAPES), 1)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B classes rows columns"]:
        """Logits of the shares. An object's is the sum of its colour's and its shape's: what a cone looks like need
        not be learnt once for every colour."""
        features = self.classes(self.layers(images * 2.0 - 1.0))
        nothing, colours, shapes = features.split([1, len(vocabulary.COLOURS), len(vocabulary.SHAPES)], dim=1)
        kinds = colours[:, :, None] + shapes[:, None]
        return torch.cat([nothing, kinds.flatten(1, 2)], dim=1)

    @torch.no_grad()
    def visible_pixels(self, video: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N kinds"]:
        """Pixels of every kind of object in each frame of a video in [0, 1]."""
        return self(video).softmax(dim=1)[:, 1:].sum(dim=(-2, -1)) * CELL**2

    def save(self, folder: Path) -> None:
        """``config.json`` and bf16 weights."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / WEIGHTS_NAME)
        atomic_write_text(folder / CONFIG_NAME, json.dumps(asdict(self.config), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "ObjectJudge":
        """A saved judge in fp32, frozen, in evaluation mode.

        Raises:
            UserError: a file is missing, damaged, or of another network.
        """
        try:
            settings = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
            judge = cls(JudgeConfig(width=settings["width"], dilations=tuple(settings["dilations"])))
            judge.load_state_dict(load_file(folder / WEIGHTS_NAME))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder} holds no judge of objects ({reason}): make one with pretrain judge.") from error
        return judge.float().eval().requires_grad_(requires_grad=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """Whether one named object was seen in a clip: its colour at all, and (then) in its shape."""

    colour: bool
    shape: bool

    @property
    def whole(self) -> bool:
        """Colour and shape."""
        return self.colour and self.shape


def find_objects(
    pixels: Float[Tensor, "N kinds"], *, named: Sequence[tuple[str, str]], frame_pixels: int
) -> list[Sighting]:
    """Which of the ``named`` (colour, shape) a clip shows, from the visible pixels of its frames.

    A colour is seen if it covers ``VISIBLE_SHARE`` of the clip; its shape if most of those pixels are of that shape.
    """
    by_colour = pixels.mean(dim=0).reshape(len(vocabulary.COLOURS), len(vocabulary.SHAPES))
    colours, shapes = list(vocabulary.COLOURS), list(vocabulary.SHAPES)
    sightings = []
    for colour, shape in named:
        counts = by_colour[colours.index(colour)]
        covered = float(counts.sum())
        seen = covered >= VISIBLE_SHARE * frame_pixels
        fits = seen and float(counts[shapes.index(shape)]) >= MIN_SHAPE_SHARE * covered
        sightings.append(Sighting(colour=seen, shape=fits))
    return sightings


def kinds_seen(pixels: Float[Tensor, "N kinds"], *, frame_pixels: int) -> set[tuple[str, str]]:
    """Every (colour, shape) that the clip shows, by the rule of ``find_objects``."""
    sightings = find_objects(pixels, named=KINDS, frame_pixels=frame_pixels)
    return {kind for kind, sighting in zip(KINDS, sightings, strict=True) if sighting.whole}


class _Residual(nn.Module):
    """x + conv(SiLU(norm(x)))."""

    def __init__(self, channels: int, *, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return x + self.conv(F.silu(self.norm(x)))


def _down(channels: int, wider: int) -> nn.Module:
    """Half the size, more channels."""
    return nn.Sequential(nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, wider, 3, stride=2, padding=1))
