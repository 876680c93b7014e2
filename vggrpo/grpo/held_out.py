"""Held-out prompts at fixed seeds: the numbers that tell learning from luck, and the sample videos beside the base's.

Evaluation samples as ``generate`` does: deterministic, guided, more steps than a rollout. Video i has prompt i and seed
i, for the base model and for every iteration alike, so differences are paired.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.models import GrpoModels
from vggrpo.grpo.processes import Processes
from vggrpo.grpo.reward_space import GUARDS
from vggrpo.policy.adapter import adapter_disabled
from vggrpo.policy.sampling import draw_noise, sample_ode
from vggrpo.rewards import reward_names
from vggrpo.runtime.files import atomic_write_text
from vggrpo.runtime.video_file import write_video
from vggrpo.types import Latents

Table = Mapping[str, Float[Tensor, " n"]]
"""Every reward and guard of the held-out videos, by name."""

BASE_NAME = "base.json"
GRID_NAME = "grid.mp4"


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The held-out videos of a run."""

    config: GrpoConfig
    models: GrpoModels
    processes: Processes
    prompts: tuple[str, ...]
    out: Path
    _base_frames: list[UInt8[np.ndarray, "B N H W 3"]] = field(default_factory=list, repr=False)
    """Of the sample videos, once they were made."""

    def metrics(self, tuned: Table, base: Table) -> dict[str, float]:
        """``eval/<name>/mean``, the base's mean, and the mean of paired differences; and the weighted ``eval/score``.

        eval/score = Σ_j w_j (mean gain of reward j) / (the base's spread of reward j) / Σ_j w_j.
        """
        found: dict[str, float] = {}
        for name in (*reward_names(), *GUARDS):
            found[f"eval/{name}/mean"] = _mean(tuned[name])
            found[f"eval/{name}/base"] = _mean(base[name])
            found[f"eval/{name}/gain"] = _mean(tuned[name] - base[name])
        weights = self.config.weights.by_name
        gains = [weight * found[f"eval/{name}/gain"] / _spread(base[name]) for name, weight in weights.items()]
        found["eval/score"] = sum(gains) / sum(weights.values())
        measured = torch.stack([tuned[name].isfinite() for name in weights]).all(dim=0)
        found["eval/nan_frac"] = 1.0 - float(measured.float().mean())
        return found

    def evaluate(self, *, as_base: bool = False) -> Table:
        """Judge the adapter as it is now, or the base model. The videos are shared out to the processes."""
        names = (*reward_names(), *GUARDS)
        table = torch.zeros(len(names), len(self.prompts), dtype=torch.float32, device=self.models.device)
        mine = list(range(len(self.prompts)))[self.processes.rank :: self.processes.count]
        shares = list(_chunks(mine, self.config.micro_batch))
        for rows in shares:
            scores = self.models.rewards.score(self.latents(rows, as_base=as_base))
            table[:, rows] = torch.stack([scores[name].to(table) for name in names])
        for _ in range(self.processes.idle_passes(len(shares))):
            self.latents([0], as_base=as_base)
        table = self.processes.sum(table).cpu()
        return dict(zip(names, table, strict=True))

    def base_table(self) -> Table:
        """The base model's numbers: measured once a run, then read from ``base.json``.

        A refreshed Φ_g judges differently, so with refreshes the base is judged anew each time.
        """
        path = self.out / BASE_NAME
        if self.config.refresh_lgm:
            return self.evaluate(as_base=True)
        if self.processes.any(path.is_file()):
            return _read_table(path, prompts=self.prompts)
        table = self.evaluate(as_base=True)
        if self.processes.is_main:
            _write_table(path, table, prompts=self.prompts)
        self.processes.wait()
        return table

    @torch.no_grad()
    def latents(self, rows: Sequence[int], *, as_base: bool) -> Latents:
        """Latents of some held-out videos. Rows that are run together share one batch."""
        models, config = self.models, self.config
        noise = torch.cat([draw_noise((1, *models.latent_shape), seed=row, device=models.device) for row in rows])
        conditions = models.conditions(
            *(self.prompts[row] for row in rows),
            guidance=config.evaluation_guidance,
            together=config.guidance_together,
        )
        reference: AbstractContextManager[None] = adapter_disabled(models.transformer) if as_base else nullcontext()
        with reference:
            return sample_ode(
                models.transformer, noise, conditions, steps=config.evaluation_steps, shift=config.flow_shift
            )

    def write_samples(self, *, iteration: int) -> None:
        """Videos of the adapter as it is now, those of the base once, and a grid of both: base above, tuned below."""
        count = min(self.config.samples, len(self.prompts))
        if not count or not (self.processes.is_main or self.processes.in_step):
            return
        rows = list(range(count))
        base_folder = self.out / "samples" / "base"
        tuned = self._frames(rows, as_base=False)
        if not self._base_frames:
            self._base_frames.append(self._frames(rows, as_base=True))
        self.models.release_decoder()
        if not self.processes.is_main:
            return
        base = self._base_frames[0]
        if not (base_folder / f"{rows[-1]}-{rows[-1]}.mp4").is_file():
            listed = json.dumps(list(self.prompts[:count]), ensure_ascii=False, indent=2) + "\n"
            base_folder.mkdir(parents=True, exist_ok=True)
            atomic_write_text(base_folder.parent / "prompts.json", listed)
            self._write(base_folder, base)
        folder = self.out / "samples" / f"step-{iteration:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        self._write(folder, tuned)
        grid = np.concatenate([np.concatenate(list(videos), axis=2) for videos in (base, tuned)], axis=1)
        write_video(folder / GRID_NAME, grid, fps=self.models.fps)

    def _frames(self, rows: Sequence[int], *, as_base: bool) -> UInt8[np.ndarray, "B N H W 3"]:
        """Denoised in micro-batches, decoded one by one: a decoder holds far more of a video than its latents."""
        drawn = [self.latents(chunk, as_base=as_base).tensor for chunk in _chunks(rows, self.config.micro_batch)]
        # Processes that only keep step do not show anything.
        videos = torch.cat(drawn).split(1) if self.processes.is_main else ()
        parts = [self.models.decode(Latents(tensor=video)).cpu().numpy() for video in videos]
        return np.concatenate(parts) if parts else np.zeros((0, 0, 0, 0, 3), np.uint8)

    def _write(self, folder: Path, videos: UInt8[np.ndarray, "B N H W 3"]) -> None:
        for row, frames in enumerate(videos):
            write_video(folder / f"{row}-{row}.mp4", frames, fps=self.models.fps)


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyStop:
    """Whether a held-out metric still rises. Part of a checkpoint, so that a resumed run stops where it would have."""

    best: float | None = None
    waited: int = 0
    """Evaluations since the best one."""

    def after(self, value: float) -> "EarlyStop":
        """With one more evaluation. A value that is not finite is no improvement."""
        if math.isfinite(value) and (self.best is None or value > self.best):
            return EarlyStop(best=value)
        return EarlyStop(best=self.best, waited=self.waited + 1)


def _chunks(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _mean(values: Tensor) -> float:
    return float(values.double().nanmean())


def _spread(values: Tensor) -> float:
    """Standard deviation of the finite values; 1 where there is none, so that gains stay in their own units."""
    finite = values[values.isfinite()].double()
    spread = float(finite.std(correction=0)) if len(finite) > 1 else 0.0
    return spread if spread > 0.0 else 1.0


def _write_table(path: Path, table: Table, *, prompts: Sequence[str]) -> None:
    # A float32 survives the way through JSON exactly: it is written as the double that it is.
    values = {name: [v if math.isfinite(v) else None for v in row.tolist()] for name, row in table.items()}
    content = {"prompts": list(prompts), "seeds": list(range(len(prompts))), "values": values}
    atomic_write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def _read_table(path: Path, *, prompts: Sequence[str]) -> Table:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["prompts"] == list(prompts), "a resumed run has the prompts that it was started with"
    return {
        name: torch.tensor([math.nan if value is None else value for value in row], dtype=torch.float32)
        for name, row in content["values"].items()
    }
