"""``train``: figure (b) from the command line."""

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vggrpo.cli.commands import Train
from vggrpo.cli.model_choice import load_listener
from vggrpo.cli.planning import require_plan
from vggrpo.cli.terminal import Outcome, PhaseProgress, note
from vggrpo.grpo.config import GrpoConfig, require_same_run
from vggrpo.grpo.defaults import training_defaults
from vggrpo.presets import get_preset
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import require_writable

if TYPE_CHECKING:
    from vggrpo.pretraining.filmed_clips import FilmedClips


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shown:
    """A run's progress as the terminal shows it."""

    phase: str
    done: int
    total: int
    seconds_left: float | None


def run(command: Train) -> Outcome:
    """Everything that can be wrong with the request is said before a model is loaded."""
    from vggrpo.grpo import run_files
    from vggrpo.grpo.prompts import choose_prompts

    config = command.settings
    get_preset(config.preset).sized(height=config.height, width=config.width, frames=config.frames)
    _require_consistent(config)
    _require_rewards(config)
    require_writable(command.out)
    if config.adapter is not None and not config.adapter.exists():
        raise UserError(f"{config.adapter} does not exist: give a LoRA that train wrote.")
    for path in (config.model_folder, config.geometry_weights, config.latent_geometry, config.first_frame):
        if path is not None and not path.exists():
            raise UserError(f"{path} does not exist.")
    saved = run_files.read_config(command.out, defaults=training_defaults(config.preset)) if command.resume else None
    prompts = run_files.read_prompt_sets(command.out) if saved is not None else None
    if saved is not None:
        require_same_run(saved, config)
    for doubt in config.doubts:
        note(f"note: {doubt}")
    filmed = _filmed(command)
    if prompts is None:
        prompts = choose_prompts(
            training_file=config.prompts,
            evaluation_file=config.evaluation_prompts,
            training_captions=config.training_captions,
            evaluation_clips=config.evaluation_clips,
            clip_captions=None if filmed is None else [str(clip.source.caption) for clip in filmed.clips],
        )
    with PhaseProgress() as progress:
        progress.phase("plan")
        require_plan(config)
        progress.phase("load")
        from vggrpo.generation.tuning import load_grpo_models
        from vggrpo.grpo.memory_errors import naming_the_setting
        from vggrpo.grpo.trainer import TrainProgress, train

        def show(report: TrainProgress) -> None:
            phase = f"iteration {report.iteration} of {report.iterations}"
            # On a terminal the line is rewritten; in a log a line an iteration is enough.
            phase = f"{phase}: {report.phase}" if sys.stderr.isatty() else phase
            done = report.iteration - 1
            progress.show(_Shown(phase=phase, done=done, total=report.iterations, seconds_left=report.seconds_left))

        with naming_the_setting("load", config):
            models = load_grpo_models(config, listener=load_listener(progress), filmed=filmed)
        result = train(
            config,
            models,
            prompts=prompts,
            out=command.out,
            resume=command.resume,
            on_progress=show,
        )
    if not result.finished:
        note(f"stopped after iteration {result.iterations_done}; go on with --resume.")
    summary = {
        "out": str(command.out),
        "adapter": str(result.adapter),
        "iterations_done": result.iterations_done,
        "finished": result.finished,
        "message": result.message,
        "seconds": round(result.seconds, 1),
        "last_metrics": {k: (round(v, 6) if math.isfinite(v) else None) for k, v in result.last_metrics.items()},
    }
    shown = f"{result.adapter}: {result.iterations_done} iterations in {result.seconds:.0f} s"
    return Outcome(result=summary, shown=f"{shown} ({result.message})" if result.message else shown)


def _filmed(command: Train) -> "FilmedClips | None":
    """The clips of a folder that supervised fine-tuning learns from, listed in the run folder."""
    if command.settings.objective != "sft":
        return None
    from vggrpo.generation.tuning import captioned_clips
    from vggrpo.grpo.run_files import require_run_folder

    filmed = captioned_clips(command.settings)
    if filmed is not None:
        require_run_folder(command.out, resume=command.resume)
        filmed.write(command.out)
        note(filmed.summary())
    return filmed


def _require_rewards(config: GrpoConfig) -> None:
    """Load the user's rewards; every weight belongs to a reward."""
    from vggrpo.rewards import load_reward_file, reward_names

    for file in config.reward_files:
        load_reward_file(file)
    unknown = next((name for name in config.weights.by_name if name not in reward_names()), None)
    if unknown is not None:
        raise UserError(
            f"--weights.more weighs a reward {unknown!r} that no --reward-files adds: there are "
            f"{', '.join(reward_names())}."
        )


def _require_consistent(config: GrpoConfig) -> None:
    """What the parts of a configuration demand of each other; each of them raises a UserError."""
    _ = (config.rollout_settings, config.surrogate_settings, config.advantage_settings, config.lora_settings)
