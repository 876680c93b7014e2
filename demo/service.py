"""The one door from the page to the models: requests in, progress and frozen results out.

Nothing of ``vggrpo`` is imported before it is needed, so the page answers in seconds; the models load with the first
video. One job runs at a time, in its own thread, so that a cancelled or closed page can stop it between two steps.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args

from demo import zero_gpu_service
from demo.environment import Environment
from demo.job_queue import JobQueue, PageError, Report, ShouldStop, StepReport
from demo.preset_service import PresetOption, preset_option, preset_options
from demo.results import RunResult, UnreadableRun, read_run
from demo.run_store import RunStore, UnknownRun
from demo.upload_service import Admitted, admitted
from demo.visitors import Visitor, owner

log = logging.getLogger(__name__)

OUT_OF_MEMORY = (
    "It ran out of memory. The models were given up to make room: try again with fewer frames or a smaller preset, and "
    "if it happens again, close other programs that use the memory."
)

ScoreKind = Literal["video", "geometry", "latents"]
SCORE_KINDS: tuple[ScoreKind, ...] = get_args(ScoreKind)


def kind_of_file(name: str) -> ScoreKind:
    """What a file is, by its name: everything that is neither geometry nor latents is tried as a video."""
    kinds: dict[str, ScoreKind] = {".npz": "geometry", ".safetensors": "latents"}
    return kinds.get(Path(name).suffix.lower(), "video")


@dataclass(frozen=True, kw_only=True)
class GenerateInput:
    """What a visitor asks for; None stands for the preset's own number."""

    prompt: str
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    first_frame: Path | None = None
    preset: str | None = None
    reward_guidance: float = 0.0
    """How strongly rewards steer the sampling; 0 is off."""
    reward_guidance_every: int | None = None


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The words of the embedded model by kind: what the prompt builder offers and the About tab lists."""

    colours: Mapping[str, tuple[int, int, int]]
    shapes: tuple[str, ...]
    floor_colours: Mapping[str, tuple[int, int, int]]
    floor_patterns: tuple[str, ...]
    camera_moves: tuple[str, ...]
    object_motions: tuple[str, ...]
    most_objects: int


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """A preset's own number of steps and guidance scale."""

    steps: int
    guidance: float


Result = TypeVar("Result")
Made_co = TypeVar("Made_co", covariant=True)


class Task(Protocol[Made_co]):
    """A job. A frozen dataclass of plain values, because on ZeroGPU another process does it."""

    def __call__(self, service: "PageService", report: Report, should_stop: ShouldStop) -> Made_co:
        """Do it with the service's models. Raises ``PageError``, ``vggrpo``'s ``UserError`` or ``Cancelled``."""
        ...


class PageService:
    """Generates, scores and opens runs. ``load_studio`` is replaced by tests that need no model."""

    def __init__(
        self,
        *,
        preset: str,
        store: RunStore,
        environment: Environment | None = None,
        load_studio: Callable[[str], Any] | None = None,
        visitor: Visitor = owner,
    ) -> None:
        self.preset = preset
        self.store = store
        self.environment = environment or Environment()
        self.limits = self.environment.limits
        self._load_studio = load_studio or _load_studio
        self._studios: dict[str, Any] = {}
        self._jobs = JobQueue(per_visitor=self.limits.jobs_per_visitor, most=self.limits.jobs, visitor=visitor)

    @property
    def is_warm(self) -> bool:
        """Whether the preset's models are in memory."""
        return self.preset in self._studios

    def describe(self) -> str:
        """The preset in one line for the page's head."""
        preset = self._get_preset()
        return f"{preset.name} · {preset.num_frames} frames · {preset.width}×{preset.height} · {preset.fps} fps"

    def sampling_defaults(self) -> SamplingDefaults:
        """Steps and guidance of the preset."""
        preset = self._get_preset()
        return SamplingDefaults(steps=preset.steps, guidance=preset.guidance)

    def presets(self) -> tuple[PresetOption, ...]:
        """What this server can draw with, its own preset first, and why it cannot with the rest."""
        return preset_options(self.preset)

    def preset_option(self, name: str) -> PresetOption:
        """One preset as the page offers it. Raises ``PageError`` for a name that does not exist."""
        return preset_option(self._get_preset(name))

    def reward_space(self, preset: str) -> Literal["latent", "rgb"]:
        """Where rewards are read: from latents, where this server has the model for it."""
        return "latent" if self.preset_option(preset).can_guide else "rgb"

    def open_run(self, run_id: str) -> RunResult:
        """Read a run or an example. Raises ``PageError``."""
        try:
            return read_run(self.store.find(run_id), run_id=run_id)
        except (UnknownRun, UnreadableRun) as error:
            raise PageError(str(error)) from error

    def generate(self, asked: GenerateInput) -> Iterator[StepReport | RunResult]:
        """Reports, then the run. Closing the iterator stops the job. Raises ``PageError``."""
        return self.run_job(Generation(asked=asked))

    def score(self, file: Path, *, kind: ScoreKind) -> Iterator[StepReport | RunResult]:
        """Reports, then a run with the rewards of the visitor's own file. Raises ``PageError``."""
        return self.run_job(Scoring(file=file, kind=kind))

    def unknown_words(self, prompt: str, *, preset: str | None = None) -> list[str]:
        """Words that the embedded model has never seen, in order; none for presets with an open vocabulary."""
        from vggrpo.worlds import vocabulary

        if not self._get_preset(preset).closed_vocabulary:
            return []

        return vocabulary.unknown_words(prompt)

    def compose(self, scene: Mapping[str, Any]) -> str:
        """The sentence of the prompt builder's choices. Raises ``PageError`` for a word outside the vocabulary."""
        from vggrpo.worlds import vocabulary as words

        known = self.vocabulary()
        objects = [
            words.ObjectWords(
                colour=_choice(item.get("colour"), known.colours, "colour"),
                shape=_choice(item.get("shape"), known.shapes, "shape"),
                motion=_choice(item.get("motion"), known.object_motions, "motion"),
            )
            for item in list(scene.get("objects") or ())[: known.most_objects]
        ]
        if not objects:
            raise PageError("a scene needs at least one object")
        return words.compose_caption(
            tuple(objects),
            floor_colour=_choice(scene.get("floor_colour"), known.floor_colours, "floor colour"),
            floor_pattern=_choice(scene.get("floor_pattern"), known.floor_patterns, "floor pattern"),
            camera_move=_choice(scene.get("camera_move"), known.camera_moves, "camera move"),
        )

    def vocabulary(self) -> Vocabulary:
        """The embedded model's words; needs no model."""
        from vggrpo.worlds import vocabulary as words

        return Vocabulary(
            colours=words.COLOURS,
            shapes=words.SHAPES,
            floor_colours=words.FLOOR_COLOURS,
            floor_patterns=words.FLOOR_PATTERNS,
            camera_moves=tuple(words.CAMERA_MOVES),
            object_motions=tuple(words.OBJECT_MOTIONS),
            most_objects=words.NUMBER_OF_OBJECTS[1],
        )

    def _get_preset(self, name: str | None = None) -> Any:
        """A preset's configuration, by default the server's. Raises ``PageError`` for a name that does not exist."""
        from vggrpo.presets import get_preset
        from vggrpo.runtime.errors import UserError

        try:
            return get_preset(name or self.preset)
        except UserError as error:
            raise PageError(str(error)) from error

    def studio(self, preset: str, *, report: Report) -> Any:
        """The preset's models, loaded once; a second preset replaces the first, memory holds one."""
        if preset not in self._studios:
            report(StepReport(phase="load"))
            self._studios.clear()
            self._studios[preset] = self._load_studio(preset)
        return self._studios[preset]

    def run_job(self, task: Task[Result]) -> Iterator[StepReport | Result]:
        """Reports of a job, those of waiting for one's turn first, then its result. Raises ``PageError``."""
        if self.environment.lends_gpu:
            steps = self._jobs.run_here(lambda: zero_gpu_service.follow(self.blueprint(), task))
        else:
            steps = self._jobs.run(lambda report, should_stop: task(self, report, should_stop))
        try:
            with closing(steps):
                for message in steps:
                    if not isinstance(message, StepReport):
                        self.store.sweep()
                    yield message
        except Exception as error:
            raise self._as_page_error(error) from error

    def blueprint(self) -> "zero_gpu_service.Blueprint":
        """All that another process needs to build this service again."""
        return zero_gpu_service.Blueprint(preset=self.preset, store=self.store, environment=self.environment)

    def _as_page_error(self, error: Exception) -> PageError:
        """The visitor's own mistakes in one line; anything else is logged and named without its inside."""
        from vggrpo.runtime.errors import Cancelled, UserError

        if isinstance(error, PageError):
            return error
        if isinstance(error, Cancelled):
            return PageError("Cancelled. Nothing was kept.")
        if isinstance(error, UserError | UnreadableRun):
            return PageError(str(error))
        log.error("A job failed", exc_info=error)
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            self._forget_models()
            return PageError(OUT_OF_MEMORY)
        return PageError(
            f"The job failed ({type(error).__name__}). The server's log has the details; you can try again."
        )

    def _forget_models(self) -> None:
        """Give their memory back, so that the next job starts from nothing."""
        import gc

        import torch

        self._studios.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Prompt to run."""

    asked: GenerateInput

    def __call__(self, service: PageService, report: Report, should_stop: ShouldStop) -> RunResult:
        """See ``Task``."""
        from vggrpo.generation import GenerateRequest

        asked = self.asked
        require_steps(asked.steps, service=service)
        preset = asked.preset or service.preset
        option = service.preset_option(preset)
        if option.why_not:
            raise PageError(option.why_not)
        with ExitStack() as stack:
            first_frame = asked.first_frame
            if first_frame is not None:
                admission = admitted(first_frame, kind="image", limits=service.limits, should_stop=should_stop)
                first_frame = stack.enter_context(admission).path
            request = GenerateRequest(
                prompt=asked.prompt,
                preset=preset,
                seed=asked.seed,
                steps=asked.steps,
                guidance=asked.guidance,
                first_frame=first_frame,
                reward_guidance=_reward_guidance(asked),
                reward_space=service.reward_space(preset),
            )
            studio = service.studio(preset, report=report)
            run_id = service.store.new_run()
            target = service.store.target(run_id)
            studio.generate(request, target, on_progress=relay(report), should_stop=should_stop)
        return service.open_run(run_id)


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The visitor's own file to rewards."""

    file: Path
    kind: ScoreKind

    def __call__(self, service: PageService, report: Report, should_stop: ShouldStop) -> RunResult:
        """See ``Task``."""
        from vggrpo import scoring

        run_id = service.store.new_run()
        target = service.store.target(run_id)
        report(StepReport(phase="geometry"))
        with admitted(self.file, kind=self.kind, limits=service.limits, should_stop=should_stop) as read:
            if self.kind == "geometry":
                report(StepReport(phase="rewards"))
                scoring.score_geometry(read.path, target)
                return service.open_run(run_id)
            studio = service.studio(service.preset, report=report)
            report(StepReport(phase="geometry"))
            if should_stop():
                raise PageError("Cancelled. Nothing was kept.")
            if self.kind == "latents":
                space = service.reward_space(service.preset)
                scoring.score_latents(read.path, target, studio, reward_space=space)
            else:
                scoring.score_frames(_frames(read), target, studio, name=self.file.name)
        return service.open_run(run_id)


def require_steps(steps: int | None, *, service: PageService) -> None:
    """Raise ``PageError`` for more denoising steps than a visitor may ask for."""
    most = service.limits.steps
    if steps is not None and steps > most:
        raise PageError(f"{steps} denoising steps were asked for: at most {most} are drawn here.")


def _frames(read: Admitted) -> Any:
    """An admitted video as ``vggrpo.scoring`` takes it; its frames stay on the disk until they are looked at."""
    import numpy as np

    from vggrpo.runtime.run_folder import VideoFrames

    frames = np.load(read.path, mmap_mode="r", allow_pickle=False)
    return VideoFrames(frames=frames, fps=float(read.facts["fps"]), has_more=bool(read.facts["has_more"]))


def relay(report: Report, *, side: str = "") -> Callable[[Any], None]:
    """``vggrpo.generation.Progress`` → ``StepReport``."""

    def on_progress(progress: Any) -> None:
        report(
            StepReport(
                phase=progress.phase,
                done=progress.done,
                total=progress.total,
                seconds_left=progress.seconds_left,
                side=side,
            )
        )

    return on_progress


def _reward_guidance(asked: GenerateInput) -> Any:
    """Settings of reward guidance, or None where it is off. Raises ``vggrpo``'s ``UserError``."""
    from vggrpo.generation import RewardGuidance

    if asked.reward_guidance == 0:
        return None
    if asked.reward_guidance_every is None:
        return RewardGuidance(scale=asked.reward_guidance)
    return RewardGuidance(scale=asked.reward_guidance, every=asked.reward_guidance_every)


def _choice(value: object, known: Mapping[str, Any] | tuple[str, ...], what: str) -> str:
    """A word of the vocabulary. Raises ``PageError``."""
    if isinstance(value, str) and value in known:
        return value
    raise PageError(f"the prompt builder knows no {what} {value!r}")


def _load_studio(preset: str) -> Any:
    """The real models. A visitor never makes the server fetch gigabytes: whoever runs it does that before."""
    from vggrpo.generation import Studio
    from vggrpo.generation.options import LoadOptions

    return Studio.load(preset, LoadOptions(offline=True))
