"""The one door from the page to the models: requests in, progress and frozen results out.

Nothing of ``vggrpo`` is imported before it is needed, so the page answers in seconds; the models load with the first
video. One job runs at a time, in its own thread, so that a cancelled or closed page can stop it between two steps.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from demo.results import RunResult, UnreadableRun, read_run
from demo.run_store import RunStore, UnknownRun

log = logging.getLogger(__name__)

HEARTBEAT = 0.5
"""Seconds between two reports of a running job, and so the longest that a cancel waits to be heard."""

ScoreKind = Literal["video", "geometry", "latents"]
SCORE_KINDS: tuple[ScoreKind, ...] = get_args(ScoreKind)


def kind_of_file(name: str) -> ScoreKind:
    """What a file is, by its name: everything that is neither geometry nor latents is tried as a video."""
    kinds: dict[str, ScoreKind] = {".npz": "geometry", ".safetensors": "latents"}
    return kinds.get(Path(name).suffix.lower(), "video")


class PageError(ValueError):
    """Something that the visitor can put right; the message is one line for them."""


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
class StepReport:
    """How far a job is: ``done`` of ``total`` steps of a phase, and a guess of the seconds to the end of all."""

    phase: str
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    side: str = ""
    """Which of two videos it works on, for a pair."""


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


Report = Callable[[StepReport], None]
ShouldStop = Callable[[], bool]
Result = TypeVar("Result")


class PageService:
    """Generates, scores and opens runs. ``load_studio`` is replaced by tests that need no model."""

    def __init__(self, *, preset: str, store: RunStore, load_studio: Callable[[str], Any] | None = None) -> None:
        self.preset = preset
        self.store = store
        self._load_studio = load_studio or _load_studio
        self._studios: dict[str, Any] = {}
        self._one_job = threading.Lock()

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

    def open_run(self, run_id: str) -> RunResult:
        """Read a run or an example. Raises ``PageError``."""
        try:
            return read_run(self.store.find(run_id), run_id=run_id)
        except (UnknownRun, UnreadableRun) as error:
            raise PageError(str(error)) from error

    def generate(self, asked: GenerateInput) -> Iterator[StepReport | RunResult]:
        """Reports, then the run. Closing the iterator stops the job. Raises ``PageError``."""

        def work(report: Report, should_stop: ShouldStop) -> RunResult:
            from vggrpo.generation import GenerateRequest

            preset = asked.preset or self.preset
            request = GenerateRequest(
                prompt=asked.prompt,
                preset=preset,
                seed=asked.seed,
                steps=asked.steps,
                guidance=asked.guidance,
                first_frame=asked.first_frame,
                reward_guidance=_reward_guidance(asked),
            )
            studio = self.studio(preset, report=report)
            run_id = self.store.new_run()
            on_progress = relay(report)
            studio.generate(request, self.store.target(run_id), on_progress=on_progress, should_stop=should_stop)
            return self.open_run(run_id)

        return self.run_job(work)

    def score(self, file: Path, *, kind: ScoreKind) -> Iterator[StepReport | RunResult]:
        """Reports, then a run with the rewards of the visitor's own file. Raises ``PageError``."""

        def work(report: Report, should_stop: ShouldStop) -> RunResult:
            from vggrpo import scoring

            run_id = self.store.new_run()
            target = self.store.target(run_id)
            if kind == "geometry":
                report(StepReport(phase="rewards"))
                scoring.score_geometry(file, target)
            else:
                studio = self.studio(self.preset, report=report)
                report(StepReport(phase="geometry"))
                if should_stop():
                    raise _cancelled()
                read = scoring.score_video if kind == "video" else scoring.score_latents
                read(file, target, studio)
            return self.open_run(run_id)

        return self.run_job(work)

    def unknown_words(self, prompt: str) -> list[str]:
        """Words that the embedded model has never seen, in order; none for presets with an open vocabulary."""
        from vggrpo.worlds import vocabulary

        if not self._get_preset().closed_vocabulary:
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

    def _get_preset(self) -> Any:
        """The preset's configuration. Raises ``PageError`` for a name that does not exist."""
        from vggrpo.presets import get_preset
        from vggrpo.runtime.errors import UserError

        try:
            return get_preset(self.preset)
        except UserError as error:
            raise PageError(str(error)) from error

    def studio(self, preset: str, *, report: Report) -> Any:
        """The preset's models, loaded once; a second preset replaces the first, memory holds one."""
        if preset not in self._studios:
            report(StepReport(phase="load"))
            self._studios.clear()
            self._studios[preset] = self._load_studio(preset)
        return self._studios[preset]

    def run_job(self, work: Callable[[Report, ShouldStop], Result]) -> Iterator[StepReport | Result]:
        """Run a job in its thread and hand its reports on; see the module's docstring."""
        inbox: queue.Queue[StepReport | Result | Exception] = queue.Queue()
        stop = threading.Event()

        def job() -> None:
            with self._one_job:
                try:
                    inbox.put(_cancelled() if stop.is_set() else work(inbox.put, stop.is_set))
                except Exception as error:  # noqa: BLE001 - the job's thread ends here; the page's thread decides
                    inbox.put(error)

        threading.Thread(target=job, name="studio-job", daemon=True).start()
        message: StepReport | Result | Exception = StepReport(phase="load")
        try:
            while isinstance(message, StepReport):
                yield message
                message = _next(inbox, otherwise=message)
            if isinstance(message, Exception):
                raise _as_page_error(message)
            self.store.sweep()
            yield message
        finally:
            stop.set()


def _next(
    inbox: "queue.Queue[StepReport | Result | Exception]", *, otherwise: StepReport
) -> StepReport | Result | Exception:
    """The newest message of the job, or the last one again after a heartbeat of silence."""
    try:
        message = inbox.get(timeout=HEARTBEAT)
        while isinstance(message, StepReport) and not inbox.empty():
            message = inbox.get_nowait()
    except queue.Empty:
        return otherwise
    return message


def _as_page_error(error: Exception) -> Exception:
    """The visitor's own mistakes as ``PageError``; anything else is logged and named without its inside."""
    from vggrpo.runtime.errors import Cancelled, UserError

    if isinstance(error, Cancelled):
        return PageError("Cancelled. Nothing was kept.")
    if isinstance(error, UserError | PageError | UnreadableRun):
        return PageError(str(error))
    log.error("A job failed", exc_info=error)
    return PageError(f"The job failed ({type(error).__name__}). The server's log has the details; you can try again.")


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


def _cancelled() -> Exception:
    from vggrpo.runtime.errors import Cancelled

    return Cancelled()


def _choice(value: object, known: Mapping[str, Any] | tuple[str, ...], what: str) -> str:
    """A word of the vocabulary. Raises ``PageError``."""
    if isinstance(value, str) and value in known:
        return value
    raise PageError(f"the prompt builder knows no {what} {value!r}")


def _load_studio(preset: str) -> Any:
    """The real models."""
    from vggrpo.generation import Studio

    return Studio.load(preset)
