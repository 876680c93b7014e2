"""``evaluate agreement``: how much of what training is rewarded for is in the videos, and how much in the reader?

GRPO learns from the differences inside a group, videos of one prompt. The same latents are judged twice: by Φ_g as they
are, and by Φ from their decoded frames. With x, y the two readings of a reward, centred on their group's mean,

    ρ = Σ x y / √(Σ x² · Σ y²)        over all groups

is the share of the latent reward's spread that a second reader can find. Where it is about 0 the advantages are noise,
and no number of iterations will help; where it is high the two readers still share Φ's own mistakes, so it says that
there is something to learn from, not that it is good.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from vggrpo.evaluation import estimates
from vggrpo.evaluation.asset_rows import Row
from vggrpo.rewards import judge
from vggrpo.types import Latents, SceneGeometry

Space = Literal["latent", "rgb"]
SPACES: tuple[Space, ...] = ("latent", "rgb")
PATH = "camera_path_length"

DrawGroup = Callable[[str], Latents]
"""The videos of one prompt, [K, C, T, h, w]."""
ReadGeometry = Callable[[Latents, Space], SceneGeometry]
"""Their geometry, by Φ_g or by Φ from decoded frames."""
Readings = dict[str, Float[np.ndarray, "P K"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardAgreement:
    """Every reward and the camera's path by name, prompt and member, in both spaces; NaN = could not be judged."""

    latent: Readings
    rgb: Readings

    def rows(self) -> tuple[Row, ...]:
        """For each reward the agreement inside groups, and below it both spreads."""
        rows: list[Row] = []
        for name, latent in self.latent.items():
            rgb = self.rgb[name]
            sums = group_sums(latent, rgb)
            words = name.replace("_", " ")
            rows += [
                Row(
                    key=f"agreement/{name}",
                    part="inside groups",
                    name=f"{words}: latent against RGB",
                    estimate=estimates.bootstrap(sums, statistic=_correlation, of="prompts"),
                ),
                Row(key=f"spread/{name}/latent", part="", name="spread by Φ_g", estimate=_spread(sums, column=1)),
                Row(key=f"spread/{name}/rgb", part="", name="spread by Φ", estimate=_spread(sums, column=2)),
            ]
        return tuple(rows)


@torch.no_grad()
def measure_agreement(
    prompts: Sequence[str], *, draw: DrawGroup, read: ReadGeometry, on_prompt: Callable[[int], None]
) -> RewardAgreement:
    """Draw a group for every prompt and judge it twice. ``on_prompt`` is told how many are done."""
    found: dict[Space, dict[str, list[np.ndarray]]] = {space: {} for space in SPACES}
    for number, prompt in enumerate(prompts):
        latents = draw(prompt)
        # One video at a time: a group of a released model's dense geometry would fill a GPU.
        members = [Latents(tensor=member) for member in latents.tensor.split(1)]
        for space in SPACES:
            judged = [_values(read(member, space)) for member in members]
            for name in judged[0]:
                found[space].setdefault(name, []).append(np.array([values[name] for values in judged]))
        on_prompt(number + 1)
    latent, rgb = ({name: np.stack(rows) for name, rows in found[space].items()} for space in SPACES)
    return RewardAgreement(latent=latent, rgb=rgb)


def _values(scene: SceneGeometry) -> dict[str, float]:
    """Rewards and the camera's path of one video."""
    report = judge(scene)
    values = {name: float(term.value[0]) for name, term in report.terms.items()}
    return values | {PATH: float(report.guards.camera_path_length[0])}


def group_sums(first: Float[np.ndarray, "P K"], second: Float[np.ndarray, "P K"]) -> Float[np.ndarray, "P 4"]:
    """Σ x y, Σ x², Σ y² and n − 1 of every group, centred, over the members that both could judge.

    A group with fewer than two of them has nothing to compare: NaN.
    """
    both = np.isfinite(first) & np.isfinite(second)
    count = both.sum(axis=1)
    x, y = (_centred(values, both) for values in (first, second))
    sums = np.stack([(x * y).sum(axis=1), (x * x).sum(axis=1), (y * y).sum(axis=1), count - 1.0], axis=1)
    return np.where(count[:, None] >= 2, sums, np.nan)


def _centred(values: Float[np.ndarray, "P K"], counted: np.ndarray) -> Float[np.ndarray, "P K"]:
    """Differences from the mean of the counted members; 0 for the others."""
    filled = np.where(counted, values, 0.0)
    mean = filled.sum(axis=1, keepdims=True) / np.maximum(counted.sum(axis=1, keepdims=True), 1)
    return np.where(counted, values - mean, 0.0)


def _correlation(sums: np.ndarray) -> np.ndarray:
    """ρ of resampled groups; NaN where one reader sees no spread at all."""
    total = sums.sum(axis=-2)
    scale = np.sqrt(total[..., 1] * total[..., 2])
    return np.asarray(total[..., 0] / np.where(scale == 0, np.nan, scale))


def _spread(sums: Float[np.ndarray, "P 4"], *, column: int) -> estimates.Estimate:
    """The standard deviation inside groups."""

    def pooled(rows: np.ndarray) -> np.ndarray:
        total = rows.sum(axis=-2)
        return np.asarray(np.sqrt(total[..., column] / total[..., 3]))

    return estimates.bootstrap(sums, statistic=pooled, of="prompts")
