"""The door from the Compare tab to the models: two sides of one prompt, or of many, as jobs of the page's service.

A side is a model (the base, a shipped adapter, a fine-tune of this server, the visitor's own file) and whether latent
reward guidance is on. Names of adapters are looked up in lists made here; no path comes from a visitor but the one that
Gradio gave their upload.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from demo.job_queue import PageError, Report, ShouldStop, StepReport
from demo.pair_results import COMPARISON, ComparisonResult, PairResult, read_comparison, read_pair
from demo.results import UnreadableRun, read_json
from demo.run_store import UnknownRun
from demo.service import PageService, relay, require_steps
from demo.upload_service import admitted

BASE_MODEL = ""
UPLOAD = "upload"
_SHIPPED = "shipped."
LORA_FILE = "pytorch_lora_weights.safetensors"
LARGEST_ADAPTER_BYTES = 64 * 2**20


class TrainedAdapter(Protocol):
    """An adapter that was trained on this server."""

    @property
    def key(self) -> str: ...  # noqa: D102 - see the class

    @property
    def label(self) -> str: ...  # noqa: D102

    @property
    def path(self) -> Path: ...  # noqa: D102


class TrainedAdapters(Protocol):
    """Where they are found."""

    def adapters(self) -> Sequence[TrainedAdapter]:
        """Those of the visitor."""
        ...

    def adapter(self, key: str) -> TrainedAdapter:
        """Any of them by its name. Raises ``PageError``."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """One entry of the lists of models; ``path`` None is the base model."""

    key: str
    label: str
    path: Path | None


@dataclass(frozen=True, kw_only=True)
class SideInput:
    """What a visitor asks of one side: a model by key, and whether its rewards guide the sampling."""

    model: str = BASE_MODEL
    guided: bool = False


@dataclass(frozen=True, kw_only=True)
class CompareInput:
    """Two sides with everything else shared; None stands for the preset's own number."""

    base: SideInput
    tuned: SideInput
    prompt: str = ""
    """Needed for a pair; many prompts bring their own."""
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    upload: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The models of both sides, found."""

    base: ModelChoice
    tuned: ModelChoice


@dataclass(frozen=True, kw_only=True)
class ManyReport(StepReport):
    """A report of a comparison over many prompts with what is finished so far."""

    partial: ComparisonResult | None = None


class CompareService:
    """Pairs and comparisons over the page's one queue of jobs."""

    def __init__(self, service: PageService, *, adapters: Path, training: TrainedAdapters | None = None) -> None:
        self.service = service
        self._adapters = adapters
        self._training = training

    def models(self) -> tuple[ModelChoice, ...]:
        """The base model, the shipped adapters, and what was trained here; uploads are a choice of the panel."""
        shipped = sorted(path.parent for path in self._adapters.glob(f"*/{LORA_FILE}"))
        return (
            ModelChoice(key=BASE_MODEL, label="Base model", path=None),
            *(ModelChoice(key=_SHIPPED + path.name, label=f"{path.name} (shipped)", path=path) for path in shipped),
            *map(_trained, () if self._training is None else self._training.adapters()),
        )

    def find_model(self, key: str) -> ModelChoice:
        """A model by key; a fine-tune that is not on the visitor's list is found by its name, which is its lock.

        Raises ``PageError``.
        """
        for choice in self.models():
            if choice.key == key:
                return choice
        if self._training is not None and not key.startswith(_SHIPPED):
            with suppress(PageError):
                return _trained(self._training.adapter(key))
        raise PageError(f"There is no adapter {key!r} on this server.")

    def open_pair(self, pair_id: str) -> PairResult:
        """Read a pair. Raises ``PageError``."""
        return _open_pair(self.service, pair_id)

    def open_comparison(self, comparison_id: str) -> ComparisonResult:
        """Read a comparison over many prompts. Raises ``PageError``."""
        return _open_comparison(self.service, comparison_id)

    def pair(self, asked: CompareInput) -> Iterator[StepReport | PairResult]:
        """Reports, then the pair. Closing the iterator stops the job. Raises ``PageError``."""
        return self.service.run_job(PairTask(asked=asked, sides=self._sides(asked)))

    def many(self, asked: CompareInput, *, count: int) -> Iterator[StepReport | ComparisonResult]:
        """Reports with what is finished so far, then the comparison. Raises ``PageError``."""
        most = self.service.limits.compared_prompts
        if not 2 <= count <= most:
            raise PageError(f"{count} prompts were asked for: give 2 to {most}")
        return self.service.run_job(ManyTask(asked=asked, sides=self._sides(asked), count=count))

    def _sides(self, asked: CompareInput) -> Sides:
        """Both models. Raises ``PageError`` for a name that is not on the list, and for two equal sides."""
        require_steps(asked.steps, service=self.service)
        if asked.base == asked.tuned:
            raise PageError("Both sides are the same: choose an adapter, or reward guidance, for one of them.")
        base, tuned = (self._model(side.model, asked.upload) for side in (asked.base, asked.tuned))
        return Sides(base=base, tuned=tuned)

    def _model(self, key: str, upload: Path | None) -> ModelChoice:
        return _uploaded(upload) if key == UPLOAD else self.find_model(key)


def _trained(adapter: TrainedAdapter) -> ModelChoice:
    return ModelChoice(key=adapter.key, label=adapter.label, path=adapter.path)


@dataclass(frozen=True, kw_only=True)
class PairTask:
    """One prompt and seed on two sides (a ``demo.service.Task``)."""

    asked: CompareInput
    sides: Sides

    @property
    def videos(self) -> int:
        """How many videos' time it takes."""
        return _videos(self.asked)

    def __call__(self, service: PageService, report: Report, should_stop: ShouldStop) -> PairResult:
        """See ``Task``."""
        from vggrpo.generation.pair import PairRequest, generate_pair

        asked, sides = self.asked, self.sides
        with _admitted(asked.upload, service=service, should_stop=should_stop):
            request = PairRequest(
                base=_request(asked, asked.base, sides.base, service=service),
                tuned=_request(asked, asked.tuned, sides.tuned, service=service),
                base_label=_label(asked.base, sides.base),
                tuned_label=_label(asked.tuned, sides.tuned),
            )
            studio = service.studio(service.preset, report=report)
            pair_id = service.store.new_run()
            relays = {"base": relay(report, side="base"), "tuned": relay(report, side="tuned")}
            generate_pair(
                studio,
                request,
                service.store.target(pair_id),
                on_progress=lambda side, progress: relays[side](progress),
                should_stop=should_stop,
            )
        return _open_pair(service, pair_id)


@dataclass(frozen=True, kw_only=True)
class ManyTask:
    """Many prompts on two sides (a ``demo.service.Task``)."""

    asked: CompareInput
    sides: Sides
    count: int

    @property
    def videos(self) -> int:
        """How many videos' time it takes."""
        return _videos(self.asked) * self.count

    def __call__(self, service: PageService, report: Report, should_stop: ShouldStop) -> ComparisonResult:
        """See ``Task``."""
        from vggrpo.generation import comparison
        from vggrpo.runtime import run_folder
        from vggrpo.runtime.files import atomic_folder

        asked, sides = self.asked, self.sides
        jobs = comparison.held_out_prompts(self.count, seed=asked.seed)
        labels = {
            "base": {"label": _label(asked.base, sides.base)},
            "tuned": {"label": _label(asked.tuned, sides.tuned)},
        }
        extra = {"sides": labels, "preset": service.preset, "asked": self.count}
        studio = service.studio(service.preset, report=report)
        comparison_id = service.store.new_run()
        with _admitted(asked.upload, service=service, should_stop=should_stop):
            compared = comparison.compare_prompts(
                studio,
                jobs,
                base=_request(asked, asked.base, sides.base, service=service, prompt=jobs[0].prompt),
                tuned=_request(asked, asked.tuned, sides.tuned, service=service, prompt=jobs[0].prompt),
                on_progress=_relay_many(report, extra),
                should_stop=should_stop,
            )
        with atomic_folder(service.store.target(comparison_id)) as folder:
            run_folder.write_json(folder / COMPARISON, compared.to_json() | extra)
        return _open_comparison(service, comparison_id)


def _open_pair(service: PageService, pair_id: str) -> PairResult:
    try:
        return read_pair(service.store.find_pair(pair_id), pair_id=pair_id)
    except (UnknownRun, UnreadableRun) as error:
        raise PageError(str(error)) from error


def _open_comparison(service: PageService, comparison_id: str) -> ComparisonResult:
    try:
        folder = service.store.find_comparison(comparison_id)
        return read_comparison(read_json(folder / COMPARISON), comparison_id=comparison_id)
    except (UnknownRun, UnreadableRun) as error:
        raise PageError(str(error)) from error


def _videos(asked: CompareInput) -> int:
    """Two videos; a guided one takes as long as five."""
    return sum(5 if side.guided else 1 for side in (asked.base, asked.tuned))


def _request(
    asked: CompareInput, side: SideInput, model: ModelChoice, *, service: PageService, prompt: str = ""
) -> Any:
    """The request of one side. Raises ``vggrpo``'s ``UserError`` for what cannot be generated."""
    from vggrpo.generation import GenerateRequest
    from vggrpo.policy.guidance import RewardGuidance

    return GenerateRequest(
        prompt=prompt or asked.prompt,
        preset=service.preset,
        seed=asked.seed,
        steps=asked.steps,
        guidance=asked.guidance,
        adapter=model.path,
        reward_guidance=RewardGuidance() if side.guided else None,
        reward_space=service.reward_space(service.preset),
    )


def _admitted(upload: Path | None, *, service: PageService, should_stop: ShouldStop) -> AbstractContextManager[object]:
    """Within it the visitor's adapter was looked at, and mistakes name it as the visitor does."""
    if upload is None:
        return nullcontext()
    return admitted(upload, kind="adapter", limits=service.limits, should_stop=should_stop)


def _uploaded(file: Path | None) -> ModelChoice:
    """The visitor's own adapter. Raises ``PageError`` before a byte of a wrong file is read."""
    if file is None:
        raise PageError("Upload a LoRA (.safetensors) first, or choose another model.")
    if file.suffix.lower() != ".safetensors":
        raise PageError(f"{file.name} is not a .safetensors file; other formats can hold programs and are refused.")
    if file.stat().st_size > LARGEST_ADAPTER_BYTES:
        raise PageError(f"{file.name} is larger than {LARGEST_ADAPTER_BYTES // 2**20} MB.")
    return ModelChoice(key=UPLOAD, label=file.name, path=file)


def _label(side: SideInput, model: ModelChoice) -> str:
    """What people call a side."""
    return f"{model.label} + reward guidance" if side.guided else model.label


def _relay_many(report: Report, extra: dict[str, object]) -> Callable[[Any], None]:
    """``ComparisonProgress`` → ``ManyReport``; the last finished part rides on every report that follows it."""
    latest: list[ComparisonResult] = []

    def on_progress(progress: Any) -> None:
        if progress.partial is not None:
            latest[:] = [read_comparison(progress.partial.to_json() | extra, comparison_id="")]
        report(
            ManyReport(
                phase="denoise",
                done=progress.done,
                total=progress.total,
                seconds_left=progress.seconds_left,
                partial=latest[0] if latest else None,
            )
        )

    return on_progress
