"""Draw what is missing, judge what is missing: a comparison that is cut off goes on where it was.

True clips come first: they are no contestant, but what the judges say of them is what they would say of a perfect
video behind this autoencoder. Then all contestants draw, then all are judged, so that a large video model and large
judges need not share a GPU. Every contestant's videos start from the same noise, and the blurred ones are base's own.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vggrpo.evaluation.contest.contestants import BASE, TRUE, Contestant, Draw, TrueClips
from vggrpo.evaluation.contest.files import ContestantFolder, ContestFolder, Features
from vggrpo.evaluation.contest.question import Question, Take
from vggrpo.evaluation.epipolar import import_opencv
from vggrpo.evaluation.judges import Finding, not_judged
from vggrpo.evaluation.subjects import Autoencoder, LatentReader
from vggrpo.rewards import judge as read_rewards
from vggrpo.rewards import reward_names
from vggrpo.types import Latents

OWN = "reward/"
"""How measures are named that are read by Φ_g: what training is rewarded for, and no independent judge."""
_NO_REWARDS_OF_BLUR = {
    f"{OWN}{name}": not_judged("its frames were blurred after decoding, and Φ_g reads latents")
    for name in reward_names()
}


@runtime_checkable
class VideoJudges(Protocol):
    """Judges of decoded videos, see ``ClipJudges``."""

    def judge(self, video: Float[Tensor, "B 3 N H W"], *, prompts: Sequence[str]) -> Mapping[str, list[Finding]]:
        """Findings by measure, one a video in [-1, 1]."""
        ...

    def features(self, video: Float[Tensor, "B 3 N H W"]) -> Float[np.ndarray, "B N C"]:
        """Features of every frame, for the Fréchet distance."""
        ...


@dataclass(frozen=True, kw_only=True)
class ContestModels:
    """What draws and what judges. ``latent_geometry`` is None where there is no Φ_g: own rewards are then left out."""

    draw: Draw
    vae: Autoencoder
    judges: VideoJudges
    latent_geometry: LatentReader | None
    device: torch.device
    drawing_done: Callable[[], None] = lambda: None
    """Told when no video is drawn any more: a large video model may go."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContestProgress:
    """``done`` of ``total`` videos of a phase."""

    phase: str
    done: int
    total: int
    seconds_left: float | None


OnProgress = Callable[[ContestProgress], None]


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Who is asked what, and where it is kept."""

    question: Question
    contestants: tuple[Contestant, ...]
    """The base model first."""
    true: TrueClips | None
    folder: ContestFolder
    batch: int = 4

    def folder_of(self, contestant: Contestant) -> ContestantFolder:
        """A contestant's folder. Raises a UserError where another one's videos lie there."""
        return self.folder.contestant(contestant.name, about=contestant.about)

    @property
    def true_folder(self) -> ContestantFolder:
        """Where true clips lie."""
        return self.folder.contestant(TRUE, about={"clips": [] if self.true is None else list(self.true.names)})


@torch.no_grad()
def run_contest(contest: Contest, models: ContestModels, *, on_progress: OnProgress) -> None:
    """Make everything that is not in the folder yet; afterwards it holds what a report is made from.

    Raises a UserError, before anything is drawn, for a folder that holds another contestant's videos.
    """
    folders = {contestant.name: contest.folder_of(contestant) for contestant in contest.contestants}
    clock = _Clock(on_progress=on_progress, jobs=_jobs(contest, folders))
    if contest.true is not None:
        _keep_true(contest, models, clock)
    for contestant in contest.contestants:
        if contestant.blur:
            _take_over(contest, folders[BASE], folders[contestant.name])
        else:
            _draw(contest, contestant, models, folder=folders[contestant.name], clock=clock)
    models.drawing_done()
    for contestant in contest.contestants:
        folder = folders[contestant.name]
        for take in _missing_findings(folder, contest.question.takes()):
            prompt = contest.question.prompts[take.prompt].text
            _judge(models, folder, take, prompt=prompt, blur=contestant.blur)
            clock.advance("judge", of=contestant.title)


def _jobs(contest: Contest, folders: dict[str, ContestantFolder]) -> dict[str, int]:
    """How many videos are to be drawn and judged."""
    takes = contest.question.takes()
    true = [] if contest.true is None else list(_missing_findings(contest.true_folder, contest.true.takes()))
    drawing = [folders[contestant.name] for contestant in contest.contestants if not contestant.blur]
    return {
        "draw": sum(len(_missing_latents(folder, takes)) for folder in drawing),
        "judge": sum(len(_missing_findings(folder, takes)) for folder in folders.values()) + len(true),
    }


def _missing_latents(folder: ContestantFolder, takes: Sequence[Take]) -> list[Take]:
    return [take for take in takes if not folder.has_latents(take)]


def _missing_findings(folder: ContestantFolder, takes: Sequence[Take]) -> list[Take]:
    return [take for take in takes if not folder.has_findings(take)]


def _draw(
    contest: Contest, contestant: Contestant, models: ContestModels, *, folder: ContestantFolder, clock: "_Clock"
) -> None:
    for takes in _batches(_missing_latents(folder, contest.question.takes()), contest.batch):
        latents = models.draw(contestant, takes).tensor
        for number, take in enumerate(takes):
            folder.write_latents(take, Latents(tensor=latents[number : number + 1]))
        clock.advance("draw", of=contestant.title, videos=len(takes))


def _take_over(contest: Contest, base: ContestantFolder, folder: ContestantFolder) -> None:
    """Base's own videos."""
    for take in _missing_latents(folder, contest.question.takes()):
        folder.write_latents(take, base.latents(take))


def _keep_true(contest: Contest, models: ContestModels, clock: "_Clock") -> None:
    """True clips as the autoencoder keeps them: no video model behind it can show more."""
    assert contest.true is not None
    folder = contest.true_folder
    for take in _missing_findings(folder, contest.true.takes()):
        if not folder.has_latents(take):
            video = contest.true.film(take.prompt).to(models.device)
            folder.write_latents(take, models.vae.encode_normalised(video))
        if take.prompt < contest.true.judged:
            _judge(models, folder, take, prompt=contest.true.captions[take.prompt])
        else:
            folder.write_features(take, _features(models, _decode(models, folder, take)))
            folder.write_findings(take, {})
        clock.advance("judge", of="true clips")


def _judge(models: ContestModels, folder: ContestantFolder, take: Take, *, prompt: str, blur: float = 0.0) -> None:
    """Findings last: where they are, everything else is."""
    video = _decode(models, folder, take)
    if blur:
        video = blurred(video, sigma=blur)
    findings = {name: found[0] for name, found in models.judges.judge(video, prompts=(prompt,)).items()}
    folder.write_features(take, _features(models, video))
    own = _NO_REWARDS_OF_BLUR if blur else _own_rewards(models, folder.latents(take))
    folder.write_findings(take, findings | own)


def _decode(models: ContestModels, folder: ContestantFolder, take: Take) -> Float[Tensor, "1 3 N H W"]:
    tensor = folder.latents(take).tensor.to(models.device)
    return models.vae.decode_normalised(Latents(tensor=tensor))


def blurred(video: Float[Tensor, "1 3 N H W"], *, sigma: float) -> Float[Tensor, "1 3 N H W"]:
    """Every frame under a Gaussian of standard deviation ``sigma`` in pixels."""
    cv2 = import_opencv()
    frames = video[0].permute(1, 2, 3, 0).float().cpu().numpy()
    soft = np.stack([cv2.GaussianBlur(frame, ksize=(0, 0), sigmaX=sigma) for frame in frames])
    return torch.from_numpy(soft).permute(3, 0, 1, 2)[None].to(video)


def _features(models: ContestModels, video: Float[Tensor, "1 3 N H W"]) -> Features:
    return np.asarray(models.judges.features(video)[0])


def _own_rewards(models: ContestModels, latents: Latents) -> dict[str, Finding]:
    """The rewards of training, by Φ_g."""
    if models.latent_geometry is None:
        return {}
    report = read_rewards(models.latent_geometry(Latents(tensor=latents.tensor.to(models.device))))
    return {
        f"{OWN}{name}": Finding(value=float(term.value[0]), reason=term.reasons[0])
        for name, term in report.terms.items()
    }


def _batches(takes: Sequence[Take], size: int) -> Iterator[Sequence[Take]]:
    for start in range(0, len(takes), size):
        yield takes[start : start + size]


@dataclass(slots=True)
class _Clock:
    """Counts videos; the time left is known once a video has been drawn and one judged."""

    on_progress: OnProgress
    jobs: dict[str, int]
    done: dict[str, int] = field(default_factory=lambda: {"draw": 0, "judge": 0})
    spent: dict[str, float] = field(default_factory=lambda: {"draw": 0.0, "judge": 0.0})
    _last: float = field(default_factory=time.perf_counter)

    def advance(self, work: str, *, of: str, videos: int = 1) -> None:
        """So many more videos are drawn or judged."""
        now = time.perf_counter()
        self.done[work] += videos
        self.spent[work] += now - self._last
        self._last = now
        left = None
        if all(self.done[one] or not self.jobs[one] for one in self.jobs):
            left = sum(
                (self.jobs[one] - self.done[one]) * self.spent[one] / self.done[one]
                for one in self.jobs
                if self.done[one]
            )
        self.on_progress(
            ContestProgress(phase=f"{work} {of}", done=self.done[work], total=self.jobs[work], seconds_left=left)
        )
