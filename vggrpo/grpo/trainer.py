"""``train``: FIGURE (b) as a loop. Make a lesson, update the adapter; evaluate, show, keep.

What a lesson is, the objective says: ``policy_gradient`` samples groups of videos and judges them (the paper),
``flow_dpo`` ranks them in pairs, ``flow_sft`` takes true clips. All take as many videos an iteration; all else,
from the optimiser to the held-out evaluation, is this loop's and the same for each.

Every random number is derived from (seed, iteration, group, member): a resumed run, and a run on another number of
processes, samples the very same videos.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from vggrpo.grpo import run_files
from vggrpo.grpo.checkpoints import Checkpoint, Counters, latest_checkpoint, remove_newer, save_checkpoint
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.held_out import HeldOut
from vggrpo.grpo.learner import Learner
from vggrpo.grpo.lesson import TrainingContext
from vggrpo.grpo.memory_errors import naming_the_setting
from vggrpo.grpo.models import GrpoModels
from vggrpo.grpo.objectives import make_objective
from vggrpo.grpo.processes import Processes, naming_a_lost_process
from vggrpo.grpo.prompts import PromptSets
from vggrpo.grpo.refresh import Refresher
from vggrpo.grpo.run_files import RunFiles
from vggrpo.grpo.transformer_options import as_configured, compile_blocks
from vggrpo.policy.adapter import add_adapter, load_adapter, save_adapter
from vggrpo.runtime.config_file import to_plain
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.memory import peak_memory_mb
from vggrpo.runtime.run_lock import RunLock
from vggrpo.runtime.stop_signals import StopSignals

_JUDGE = "latent_geometry/"
_STOPPED = "stopped on request"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainProgress:
    """Where a run is: ``iteration`` of ``iterations`` is under way, in ``phase``."""

    iteration: int
    iterations: int
    phase: str
    seconds_left: float | None


OnProgress = Callable[[TrainProgress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """Where a run ended, and why."""

    iterations_done: int
    finished: bool
    """False when it was asked to stop before its end."""
    message: str
    seconds: float
    adapter: Path
    last_metrics: dict[str, float] = field(default_factory=dict)


def train(
    config: GrpoConfig,
    models: GrpoModels,
    *,
    prompts: PromptSets,
    out: Path,
    resume: bool = False,
    on_progress: OnProgress = lambda _: None,
) -> TrainResult:
    """Fine-tune the transformer's adapter; every file of the run is in ``out``. The models come back as they were.

    With ``resume`` a run goes on from its last checkpoint to the numbers of an uninterrupted one; without a checkpoint
    it begins. SIGTERM and Ctrl-C finish the iteration, keep a checkpoint and return. With several processes all call
    this, and ``out`` must be one folder for all of them.

    Raises:
        UserError: the folder is in use or holds something else, a prompt cannot be used, the replay does not repeat
            the rollout, nothing could be learnt for several iterations, or the disk is full.
    """
    for prompt in (*prompts.training, *prompts.evaluation):
        models.check_prompt(prompt)
    processes = Processes.open(device=models.device, out=out, trackers=config.trackers, shard_base=config.shard_base)
    processes.share(config.groups)
    if processes.is_main:
        run_files.require_run_folder(out, resume=resume)
    with RunLock(out) if processes.is_main else nullcontext():
        processes.wait()
        trainer = _Trainer(config, models, prompts=prompts, out=out, processes=processes, on_progress=on_progress)
        with trainer.reporting_failure(), naming_a_lost_process(processes), as_configured(models.transformer, config):
            return trainer.run()


class _Trainer:
    """One call of ``train``."""

    def __init__(
        self,
        config: GrpoConfig,
        models: GrpoModels,
        *,
        prompts: PromptSets,
        out: Path,
        processes: Processes,
        on_progress: OnProgress,
    ) -> None:
        self._config = config
        self._models = models
        self._prompts = prompts
        self._out = out
        self._processes = processes
        self._on_progress = on_progress
        self._files = RunFiles(out=out, is_main=processes.is_main)
        self._held_out = HeldOut(config=config, models=models, processes=processes, prompts=prompts.evaluation, out=out)
        self._refresher = Refresher(config=config, models=models, prompts=prompts, processes=processes)
        context = TrainingContext(config=config, models=models, prompts=prompts, processes=processes, phase=self._phase)
        self._objective = make_objective(context)
        self._counters = Counters()
        self._durations: list[float] = []
        self._phases: dict[str, float] = {}
        self._metrics: dict[str, float] = {}
        self._ratio_checked = False

    @contextmanager
    def reporting_failure(self) -> Iterator[None]:
        """Leave the reason of a failure in ``status.json`` and ``train.log``; a second Ctrl-C is a stop."""
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            message = "interrupted; the last checkpoint is kept" if stopped else str(error) or type(error).__name__
            # The disk may be full, which must not hide what happened.
            with suppress(OSError):
                self._files.log(message if stopped else f"failed: {message}")
                self._say("stopped" if stopped else "failed", message=message)
            raise

    def run(self) -> TrainResult:
        """From the last checkpoint, or the beginning, to the end or a wish to stop."""
        config = self._config
        with StopSignals() as stop:
            self._say("starting")
            learner = self._start()
            self._say("running", seconds_left=self._seconds_left())
            message = ""
            while self._counters.iteration < config.iterations and not message:
                message = _STOPPED if self._processes.any(stop.asked) else self._one_iteration(learner)
            self._save(learner)
        finished = message != _STOPPED
        self._files.log(message or "finished")
        self._say("finished" if finished else "stopped", message=message)
        self._processes.close_trackers()
        return TrainResult(
            iterations_done=self._counters.iteration,
            finished=finished,
            message=message,
            seconds=self._counters.seconds,
            adapter=self._out / run_files.ADAPTER_FOLDER,
            last_metrics=self._metrics,
        )

    def _start(self) -> Learner:
        """Adapter, optimiser and counters as the checkpoint holds them, and the base's numbers."""
        config, models = self._config, self._models
        # Asked early, so that a judge that cannot be refreshed is said now and not after N iterations.
        self._refresher.parameters()
        checkpoint = latest_checkpoint(self._out)
        # Where training went on from a given adapter, its checkpoint says the rank, and the file may be gone.
        given = config.adapter if checkpoint is None or config.adapter is None else checkpoint.folder
        if given is None:
            add_adapter(models.transformer, config.lora_settings, seed=config.seed)
        else:
            load_adapter(models.transformer, given, trainable=True)
        self._processes.shard(models.transformer)
        compile_blocks(models.transformer, config)
        learner = Learner(models.transformer, config, self._processes)
        self._resume(learner, checkpoint)
        self._prepare()
        if config.trackers:
            self._processes.open_trackers(to_plain(config))
        self._processes.wait()
        if config.evaluate_every:
            self._evaluate_start(fresh=checkpoint is None)
        return learner

    def _resume(self, learner: Learner, checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            self._counters = checkpoint.counters
            learner.load_state(checkpoint.tensors, updates=checkpoint.counters.updates)
            for name, parameter in self._refresher.parameters().items():
                parameter.data.copy_(checkpoint.tensors[f"{_JUDGE}{name}"])
        if self._processes.is_main:
            done = self._counters.iteration
            remove_newer(self._out, than=done)
            self._files.begin(self._config, self._prompts)
            # A run that died before its first checkpoint begins again, and so does its log.
            self._files.trim_metrics(after=done if checkpoint else -1)
            self._files.log(f"begin with iteration {done + 1} of {self._config.iterations}")

    def _prepare(self) -> None:
        """Embed what this process will still meet, then let the text encoder go: it can be larger than all the rest."""
        config, prompts = self._config, self._prompts
        coming = range(self._counters.iteration + 1, config.iterations + 1)
        wanted = set(prompts.evaluation)
        if config.refresh_lgm:
            wanted |= set(prompts.training)
        for iteration in coming:
            wanted |= set(self._objective.texts(iteration))
        with self._phase("embed"):
            for prompt in sorted(wanted):
                self._models.embed(prompt)
            self._models.release_text()
        self._objective.prepare(coming)

    def _one_iteration(self, learner: Learner) -> str:
        """Sample, judge, update; then what is due. Returns why the run is over, or nothing."""
        began = time.monotonic()
        config = self._config
        iteration = self._counters.iteration + 1
        self._phases = {}
        metrics = self._improve(learner, iteration)
        counters = replace(
            self._counters,
            iteration=iteration,
            updates=learner.updates,
            groups=iteration * config.groups,
            skipped=0 if metrics["update/applied"] else self._counters.skipped + 1,
        )
        message = ""
        with learner.averaged():
            if config.evaluate_every and iteration % config.evaluate_every == 0:
                metrics |= self._evaluate()
                counters, message = self._judge_early_stop(counters, metrics)
            if config.sample_every and iteration % config.sample_every == 0:
                with self._phase("samples"):
                    self._held_out.write_samples(iteration=iteration)
        if config.refresh_lgm and iteration % config.refresh_lgm == 0:
            metrics |= self._refresh(iteration)
        seconds = time.monotonic() - began
        self._durations.append(seconds)
        self._counters = replace(counters, seconds=counters.seconds + seconds)
        self._record(iteration, metrics, seconds=seconds)
        self._require_usable_updates(metrics)
        if iteration % config.checkpoint_every == 0 and not counters.skipped:
            self._save(learner)
        self._say("running", seconds_left=self._seconds_left())
        return message

    def _improve(self, learner: Learner, iteration: int) -> dict[str, float]:
        """Make the lesson, learn it."""
        lesson = self._objective.lesson(iteration)
        with self._phase("update"):
            report = learner.improve(lesson, check_ratio=lesson.has_ratio and not self._ratio_checked)
            # A ratio was computed only if there was something to replay.
            self._ratio_checked |= not math.isnan(report.loss)
        return {**lesson.metrics, **report.metrics, "lr": self._config.learning_rate}

    def _evaluate_start(self, *, fresh: bool) -> None:
        """The base's held-out numbers; row 0 of a run's metrics is what it starts from."""
        self._phases = {}
        with self._phase("evaluate"):
            base = self._held_out.base_table()
            if not fresh:
                return
            tuned = self._held_out.evaluate() if self._config.adapter else base
        metrics = self._held_out.metrics(tuned, base)
        if self._config.early_stop:
            _require_metric(self._config.early_stop, metrics)
        self._files.metrics(0, metrics | {"time/evaluate": round(self._phases["evaluate"], 3)})

    def _evaluate(self) -> dict[str, float]:
        with self._phase("evaluate"):
            return self._held_out.metrics(self._held_out.evaluate(), self._held_out.base_table())

    def _judge_early_stop(self, counters: Counters, metrics: dict[str, float]) -> tuple[Counters, str]:
        """The counters with this evaluation, and why the run is over if it is."""
        name = self._config.early_stop
        if not name:
            return counters, ""
        state = counters.early_stop.after(metrics[name])
        over = state.waited >= self._config.early_stop_patience
        message = f"early stop: {name} has not risen above {state.best} for {state.waited} evaluations" if over else ""
        return replace(counters, early_stop=state), message

    def _refresh(self, iteration: int) -> dict[str, float]:
        with self._phase("refresh"):
            result = self._refresher.run(iteration)
        return {"refresh/alignment_error_before": result.before, "refresh/alignment_error_after": result.after}

    def _require_usable_updates(self, metrics: dict[str, float]) -> None:
        """Stop when nothing can be learnt. Raises a UserError that names the cause."""
        skipped = self._counters.skipped
        if skipped < self._config.max_skipped:
            return
        cause = self._objective.why_nothing(metrics) or (
            "loss or gradient was not finite: start a new folder from --adapter with a lower --learning-rate"
        )
        raise UserError(
            f"{skipped} iterations in a row changed nothing: {cause}. The last good checkpoint is in {self._out}."
        )

    def _record(self, iteration: int, metrics: dict[str, float], *, seconds: float) -> None:
        """Numbers of an iteration, to every place that wants them."""
        metrics |= {f"time/{phase}": round(spent, 3) for phase, spent in self._phases.items()}
        metrics |= {
            "time/iteration": round(seconds, 3),
            "memory/peak_mb": round(peak_memory_mb(self._models.device), 1),
        }
        self._metrics = metrics
        self._files.metrics(iteration, metrics)
        if self._config.trackers:
            self._processes.track({k: v for k, v in metrics.items() if math.isfinite(v)}, iteration=iteration)
        scored = f"; held-out score {metrics['eval/score']:+.3f}" if "eval/score" in metrics else ""
        learnt = self._objective.in_words(metrics)
        self._files.log(f"iteration {iteration}/{self._config.iterations}: {learnt}{scored}; {seconds:.1f} s")

    def _save(self, learner: Learner) -> None:
        """A checkpoint of the present counters, and the adapter for use."""
        tensors = learner.state() | {f"{_JUDGE}{name}": p.detach() for name, p in self._refresher.parameters().items()}
        if self._processes.is_main:
            with learner.averaged():
                save_checkpoint(self._out, tensors=tensors, counters=self._counters, export=self._export)
        self._processes.wait()

    def _export(self, building: Path) -> None:
        """The averaged adapter, in the checkpoint and in ``adapter/``."""
        save_adapter(self._models.transformer, building)
        save_adapter(self._models.transformer, self._out / run_files.ADAPTER_FOLDER)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Time a phase and tell who watches."""
        self._on_progress(
            TrainProgress(
                iteration=min(self._counters.iteration + 1, self._config.iterations),
                iterations=self._config.iterations,
                phase=name,
                seconds_left=self._seconds_left(),
            )
        )
        began = time.monotonic()
        try:
            with naming_the_setting(name, self._config):
                yield
        finally:
            self._phases[name] = self._phases.get(name, 0.0) + time.monotonic() - began

    def _seconds_left(self) -> float | None:
        if not self._durations:
            return None
        mean = sum(self._durations) / len(self._durations)
        return mean * (self._config.iterations - self._counters.iteration)

    def _say(self, state: run_files.State, *, message: str = "", seconds_left: float | None = None) -> None:
        self._files.status(
            state,
            iteration=self._counters.iteration,
            iterations=self._config.iterations,
            message=message,
            seconds_left=seconds_left,
        )


def _require_metric(name: str, metrics: dict[str, float]) -> None:
    if name not in metrics:
        names = ", ".join(one for one in metrics if one.endswith(("/mean", "/gain", "score")))
        raise UserError(f"--early-stop {name!r} is no held-out metric; there are {names}.")
