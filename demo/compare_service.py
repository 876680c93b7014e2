"""The door from the Compare tab to the models: two sides of one prompt, or of many, as jobs of the page's service.

A side is a model (the base, a shipped adapter, a fine-tune of this server, the visitor's own file) and whether latent
reward guidance is on. Names of adapters are looked up in lists made here; no path comes from a visitor but the one that
Gradio gave their upload.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from demo.pair_results import COMPARISON, ComparisonResult, PairResult, read_comparison, read_pair
from demo.results import UnreadableRun, read_json
from demo.run_store import UnknownRun
from demo.service import PageError, PageService, Report, ShouldStop, StepReport, relay

BASE_MODEL = ""
UPLOAD = "upload"
_SHIPPED = "shipped."
LORA_FILE = "pytorch_lora_weights.safetensors"
LARGEST_ADAPTER_BYTES = 64 * 2**20
MOST_PROMPTS = 64


class TrainedAdapter(Protocol):
    """An adapter that was trained on this server."""

    @property
    def key(self) -> str: ...  # noqa: D102 - see the class

    @property
    def label(self) -> str: ...  # noqa: D102

    @property
    def path(self) -> Path: ...  # noqa: D102


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
class ManyReport(StepReport):
    """A report of a comparison over many prompts with what is finished so far."""

    partial: ComparisonResult | None = None


class CompareService:
    """Pairs and comparisons over the page's one queue of jobs."""

    def __init__(
        self, service: PageService, *, adapters: Path, trained: Callable[[], Sequence[TrainedAdapter]] = tuple
    ) -> None:
        self.service = service
        self._adapters = adapters
        self._trained = trained

    def models(self) -> tuple[ModelChoice, ...]:
        """The base model, the shipped adapters, and what was trained here; uploads are a choice of the panel."""
        shipped = sorted(path.parent for path in self._adapters.glob(f"*/{LORA_FILE}"))
        return (
            ModelChoice(key=BASE_MODEL, label="Base model", path=None),
            *(ModelChoice(key=_SHIPPED + path.name, label=f"{path.name} (shipped)", path=path) for path in shipped),
            *(ModelChoice(key=one.key, label=one.label, path=one.path) for one in self._trained()),
        )

    def open_pair(self, pair_id: str) -> PairResult:
        """Read a pair. Raises ``PageError``."""
        try:
            return read_pair(self.service.store.find_pair(pair_id), pair_id=pair_id)
        except (UnknownRun, UnreadableRun) as error:
            raise PageError(str(error)) from error

    def open_comparison(self, comparison_id: str) -> ComparisonResult:
        """Read a comparison over many prompts. Raises ``PageError``."""
        try:
            folder = self.service.store.find_comparison(comparison_id)
            return read_comparison(read_json(folder / COMPARISON), comparison_id=comparison_id)
        except (UnknownRun, UnreadableRun) as error:
            raise PageError(str(error)) from error

    def pair(self, asked: CompareInput) -> Iterator[StepReport | PairResult]:
        """Reports, then the pair. Closing the iterator stops the job. Raises ``PageError``."""
        base, tuned = self._sides(asked)

        def work(report: Report, should_stop: ShouldStop) -> PairResult:
            from vggrpo.generation.pair import PairRequest, generate_pair

            request = PairRequest(
                base=self._request(asked, asked.base, base),
                tuned=self._request(asked, asked.tuned, tuned),
                base_label=_label(asked.base, base),
                tuned_label=_label(asked.tuned, tuned),
            )
            studio = self.service.studio(self.service.preset, report=report)
            pair_id = self.service.store.new_run()
            relays = {"base": relay(report, side="base"), "tuned": relay(report, side="tuned")}
            target = self.service.store.target(pair_id)
            with _named(asked.upload):
                generate_pair(
                    studio,
                    request,
                    target,
                    on_progress=lambda side, progress: relays[side](progress),
                    should_stop=should_stop,
                )
            return self.open_pair(pair_id)

        return self.service.run_job(work)

    def many(self, asked: CompareInput, *, count: int) -> Iterator[StepReport | ComparisonResult]:
        """Reports with what is finished so far, then the comparison. Raises ``PageError``."""
        base, tuned = self._sides(asked)
        if not 2 <= count <= MOST_PROMPTS:
            raise PageError(f"{count} prompts were asked for: give 2 to {MOST_PROMPTS}")

        def work(report: Report, should_stop: ShouldStop) -> ComparisonResult:
            from vggrpo.generation import comparison
            from vggrpo.runtime import run_folder
            from vggrpo.runtime.files import atomic_folder

            jobs = comparison.held_out_prompts(count, seed=asked.seed)
            sides = {
                "base": {"label": _label(asked.base, base)},
                "tuned": {"label": _label(asked.tuned, tuned)},
            }
            studio = self.service.studio(self.service.preset, report=report)
            comparison_id = self.service.store.new_run()
            extra = {"sides": sides, "preset": self.service.preset, "asked": count}
            with _named(asked.upload):
                compared = comparison.compare_prompts(
                    studio,
                    jobs,
                    base=self._request(asked, asked.base, base, prompt=jobs[0].prompt),
                    tuned=self._request(asked, asked.tuned, tuned, prompt=jobs[0].prompt),
                    on_progress=_relay_many(report, extra),
                    should_stop=should_stop,
                )
            with atomic_folder(self.service.store.target(comparison_id)) as folder:
                run_folder.write_json(folder / COMPARISON, compared.to_json() | extra)
            return self.open_comparison(comparison_id)

        return self.service.run_job(work)

    def _sides(self, asked: CompareInput) -> tuple[ModelChoice, ModelChoice]:
        """Both models. Raises ``PageError`` for a name that is not on the list, and for two equal sides."""
        if asked.base == asked.tuned:
            raise PageError("Both sides are the same: choose an adapter, or reward guidance, for one of them.")
        return self._model(asked.base.model, asked.upload), self._model(asked.tuned.model, asked.upload)

    def _model(self, key: str, upload: Path | None) -> ModelChoice:
        if key == UPLOAD:
            return _uploaded(upload)
        for choice in self.models():
            if choice.key == key:
                return choice
        raise PageError(f"There is no adapter {key!r} on this server.")

    def _request(self, asked: CompareInput, side: SideInput, model: ModelChoice, *, prompt: str = "") -> Any:
        """The request of one side. Raises ``vggrpo``'s ``UserError`` for what cannot be generated."""
        from vggrpo.generation import GenerateRequest
        from vggrpo.policy.guidance import RewardGuidance

        return GenerateRequest(
            prompt=prompt or asked.prompt,
            preset=self.service.preset,
            seed=asked.seed,
            steps=asked.steps,
            guidance=asked.guidance,
            adapter=model.path,
            reward_guidance=RewardGuidance() if side.guided else None,
        )


@contextmanager
def _named(upload: Path | None) -> Iterator[None]:
    """Within it, mistakes name the visitor's file by its name, and not by where the server keeps it."""
    from vggrpo.runtime.errors import UserError

    try:
        yield
    except UserError as error:
        if upload is None:
            raise
        raise UserError(str(error).replace(str(upload), upload.name)) from error


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
