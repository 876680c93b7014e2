"""Named endpoints of fine-tunes for ``gradio_client``: start, stop, resume, look, list."""

from typing import Any

import gradio as gr

from demo.job_queue import PageError
from demo.outcomes import Finetune
from demo.panels.endpoints import root_of
from demo.panels.finetune import read_input
from demo.training_runs import read_history
from demo.training_service import TrainingService, read_prompts
from demo.viewers.training import board, summary


def build_finetune_endpoints(training: TrainingService) -> None:
    """Add ``/finetune_start``, ``/finetune_stop``, ``/finetune_resume``, ``/finetune_status``, ``/finetune_list``."""

    def finetune_start(
        prompts: str = "",
        preset: str = "",
        iterations: float | None = None,
        group_size: float | None = None,
        groups: float | None = None,
        settings: dict[str, Any] | None = None,
        request: gr.Request | None = None,
    ) -> dict[str, Any]:
        """Start a fine-tune, or queue it behind the one that runs. Returns what ``/finetune_status`` does.

        Args:
            prompts: one a line; captions of random scenes if empty
            preset: name of a preset; the server's own if empty
            iterations: the preset's own number if omitted
            group_size: videos of each prompt; the preset's own number if omitted
            groups: prompts an iteration; the preset's own number if omitted
            settings: any of motion_smoothness, geometry_consistency, scene_smoothness (weights of the rewards),
                motion_guard, training_captions, transition, learning_rate, kl_weight, seed
        """
        try:
            defaults = training.defaults(preset or training.preset)
            known = {name for name in vars(defaults) if name not in {"prompts", "preset"}}
            sizes = {"iterations": iterations, "group_size": group_size, "groups": groups}
            asked = {name: value for name, value in sizes.items() if value is not None}
            asked |= settings or {}
            if unknown := sorted(set(asked) - known):
                raise PageError(f"there is no setting {unknown[0]!r}: choose from {', '.join(sorted(known))}")
            plain = {name: getattr(defaults, name) for name in (*known, "preset")} | asked
            finetune = training.start(read_input(plain, prompts=read_prompts(prompts)))
        except PageError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return _answer(training, finetune.job.job_id, request)

    def finetune_stop(job: str, request: gr.Request | None = None) -> dict[str, Any]:
        """Stop a fine-tune after its iteration, with a checkpoint kept; a second call ends it at once.

        Args:
            job: its name, as /finetune_start returned it
        """
        return _act(training.stop, training, job, request)

    def finetune_resume(job: str, request: gr.Request | None = None) -> dict[str, Any]:
        """Go on with a stopped or failed fine-tune from its last checkpoint.

        Args:
            job: its name, as /finetune_start returned it
        """
        return _act(training.resume, training, job, request)

    def finetune_status(job: str, request: gr.Request | None = None) -> dict[str, Any]:
        """Where a fine-tune stands: state, message, iteration, iterations, seconds_left, metrics, log, files, page.

        Args:
            job: its name, as /finetune_start returned it
        """
        return _act(training.find, training, job, request)

    def finetune_list() -> list[dict[str, Any]]:
        """Your fine-tunes, the newest first: job, title, state, done; on a machine of one's own, all of them."""
        return [summary(finetune) for finetune in training.all()]

    for function in (finetune_start, finetune_stop, finetune_resume, finetune_status, finetune_list):
        gr.api(function, api_name=function.__name__, queue=False)


def _act(action: Any, training: TrainingService, job: str, request: gr.Request | None) -> dict[str, Any]:
    try:
        action(job)
        return _answer(training, job, request)
    except PageError as error:
        raise gr.Error(str(error), print_exception=False) from error


def _answer(training: TrainingService, job: str, request: gr.Request | None) -> dict[str, Any]:
    """A fine-tune as JSON, with absolute addresses."""
    finetune: Finetune = training.find(job)
    outcome = finetune.outcome
    history = read_history(finetune.job.run)
    shown = board(finetune)
    root = root_of(request)
    return {
        "job": job,
        "state": outcome.state,
        "message": outcome.message,
        "iteration": outcome.iteration,
        "iterations": outcome.iterations,
        "seconds_left": outcome.seconds_left,
        "can_resume": outcome.can_resume,
        "metrics": {name: history.last(name) for name in history.series},
        "log": shown["log"],
        "files": {item["name"]: root + item["url"] for item in shown["files"]},
        "page": f"{root}?job={job}",
    }
