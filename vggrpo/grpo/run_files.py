"""The files of a training run (design, "Files a run leaves"), written by the main process only.

config.yaml     the settings            metrics.jsonl   one object an iteration
prompts.json    both prompt sets        status.json     for the page, rewritten after every iteration
train.log       the same in words       checkpoints/ samples/ adapter/ lock
"""

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.prompts import PromptSets
from vggrpo.runtime.checkpoint_folder import checkpoint_folders
from vggrpo.runtime.config_file import CONFIG_NAME, read_mapping, with_settings, write_config
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_text, require_writable
from vggrpo.runtime.run_lock import LOCK_NAME

State = Literal["starting", "running", "stopped", "finished", "failed"]

METRICS_NAME = "metrics.jsonl"
STATUS_NAME = "status.json"
LOG_NAME = "train.log"
PROMPTS_NAME = "prompts.json"
VIDEOS_NAME = "videos.json"
"""What a folder of videos gave, written ahead of all else."""
ADAPTER_FOLDER = "adapter"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFiles:
    """Writers for one run folder. ``is_main`` False writes nothing."""

    out: Path
    is_main: bool

    def status(
        self,
        state: State,
        *,
        iteration: int,
        iterations: int,
        message: str = "",
        seconds_left: float | None = None,
    ) -> None:
        """Say where the run is."""
        if not self.is_main:
            return
        content = {
            "state": state,
            "iteration": iteration,
            "iterations": iterations,
            "pid": os.getpid(),
            "message": message,
            "seconds_left": None if seconds_left is None else round(seconds_left, 1),
        }
        atomic_write_text(self.out / STATUS_NAME, json.dumps(content, ensure_ascii=False) + "\n")

    def metrics(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Append an iteration's numbers; what is not finite becomes null."""
        if not self.is_main:
            return
        numbers = {name: (float(f"{v:.8g}") if math.isfinite(v) else None) for name, v in metrics.items()}
        with (self.out / METRICS_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": iteration, **numbers}) + "\n")

    def log(self, text: str) -> None:
        """A line of ``train.log``."""
        if not self.is_main:
            return
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        with (self.out / LOG_NAME).open("a", encoding="utf-8") as file:
            file.write(f"{now}  {' '.join(text.split())}\n")

    def trim_metrics(self, *, after: int) -> None:
        """Drop iterations that will be done again, and a line that was half written."""
        path = self.out / METRICS_NAME
        if not self.is_main or not path.exists():
            return
        lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in lines if json.loads(line)["iteration"] <= after]
        atomic_write_text(path, "".join(kept))

    def begin(self, config: GrpoConfig, prompts: PromptSets) -> None:
        """Write the settings and the prompts."""
        if self.is_main:
            write_config(self.out, config)
            content = {"training": prompts.training, "evaluation": prompts.evaluation}
            atomic_write_text(self.out / PROMPTS_NAME, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def read_config(out: Path, *, defaults: GrpoConfig) -> GrpoConfig | None:
    """The settings that a run was started with; None where there is no run."""
    path = out / CONFIG_NAME
    return with_settings(defaults, read_mapping(path), source=str(path)) if path.is_file() else None


def read_prompt_sets(out: Path) -> PromptSets | None:
    """The prompts that a run was started with; None where there is no run. Files may have changed since."""
    path = out / PROMPTS_NAME
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return PromptSets(training=tuple(content["training"]), evaluation=tuple(content["evaluation"]))


def require_run_folder(out: Path, *, resume: bool) -> None:
    """Raise a UserError unless a run can begin (or go on) in ``out``; makes the folder."""
    known = {CONFIG_NAME, LOCK_NAME, LOG_NAME, STATUS_NAME, VIDEOS_NAME}
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if names and not names & known:
        raise UserError(f"{out} holds other files; choose an empty or new output folder.")
    if checkpoint_folders(out) and not resume:
        raise UserError(f"{out} already holds a training run: add --resume, or choose another output folder.")
    require_writable(out)
    out.mkdir(parents=True, exist_ok=True)
