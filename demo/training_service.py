"""The one door from the page to training: what a visitor asks becomes the arguments of ``python -m vggrpo train``.

The page itself trains nothing and loads nothing for it. Numbers are bounded and prompts counted here, before a process
starts; names of fine-tunes are matched before they touch the file system, and no path comes from a visitor.
"""

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import get_args, get_type_hints

from demo.environment import Environment
from demo.job_queue import PageError
from demo.jobs import Job, Jobs
from demo.outcomes import Finetune, read_outcome
from demo.run_store import RunStore
from demo.training_estimate import SHIPPED, Cost, cost_of, estimate_text
from demo.training_runs import find_adapter, newest_checkpoint, read_history
from demo.visitors import Visitor, owner

FINETUNES = "finetunes"
"""Folder under the runs root."""

MOST_PROMPTS = 64
LONGEST_PROMPT = 400
LEAST_DISK_MB = 500
"""Free space below which no training starts: a checkpoint that cannot be written is worse than a late no."""

_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class TrainingInput:
    """What a visitor asks for; ``TrainingService.defaults`` fills in what a preset trains with."""

    preset: str
    prompts: tuple[str, ...]
    """Empty: captions of ``training_captions`` random scenes of the procedural world."""
    training_captions: int
    iterations: int
    group_size: int
    groups: int
    motion_smoothness: float
    geometry_consistency: float
    scene_smoothness: float
    motion_guard: float
    transition: str
    learning_rate: float
    kl_weight: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Smallest and largest number of a setting."""

    low: float
    high: float


BOUNDS: Mapping[str, Bounds] = {
    "training_captions": Bounds(low=4, high=4096),
    "iterations": Bounds(low=1, high=2000),
    "group_size": Bounds(low=2, high=64),
    "groups": Bounds(low=1, high=32),
    "motion_smoothness": Bounds(low=0.0, high=4.0),
    "geometry_consistency": Bounds(low=0.0, high=4.0),
    "scene_smoothness": Bounds(low=0.0, high=4.0),
    "motion_guard": Bounds(low=0.0, high=10.0),
    "learning_rate": Bounds(low=1e-7, high=1e-2),
    "kl_weight": Bounds(low=0.0, high=10.0),
    "seed": Bounds(low=0, high=2**31 - 1),
}
REWARD_WEIGHTS = ("motion_smoothness", "geometry_consistency", "scene_smoothness")

FLAGS: Mapping[str, str] = {
    "preset": "--preset",
    "training_captions": "--training-captions",
    "iterations": "--iterations",
    "group_size": "--group-size",
    "groups": "--groups",
    "motion_smoothness": "--weights.motion-smoothness",
    "geometry_consistency": "--weights.geometry-consistency",
    "scene_smoothness": "--weights.scene-smoothness",
    "motion_guard": "--motion-guard",
    "transition": "--transition",
    "learning_rate": "--learning-rate",
    "kl_weight": "--kl-weight",
    "seed": "--seed",
}
"""Setting → flag of ``python -m vggrpo train``."""


@dataclass(frozen=True, kw_only=True)
class PresetChoice:
    """A preset of the menu, with the reason where it cannot be trained here."""

    name: str
    summary: str
    why_not: str = ""


@dataclass(frozen=True, kw_only=True)
class AdapterChoice:
    """A trained adapter of this server: ``path`` is its folder in diffusers' format."""

    key: str
    label: str
    path: Path


class TrainingService:
    """Starts, stops, resumes and reads fine-tunes. ``program`` is replaced by tests that train nothing."""

    def __init__(
        self,
        *,
        store: RunStore,
        preset: str,
        environment: Environment | None = None,
        visitor: Visitor = owner,
        program: Sequence[str] | None = None,
    ) -> None:
        self.preset = preset
        self.environment = environment or Environment()
        self._visitor = visitor
        self._program = tuple(program or (sys.executable, "-m", "vggrpo", "train"))
        self._jobs = Jobs(
            store.root / FINETUNES,
            command=self._command,
            cwd=_ROOT,
            per_owner=self.environment.limits.finetunes_per_visitor,
        )

    def wake(self) -> None:
        """Find running and waiting fine-tunes again after a restart of the page."""
        self._jobs.wake()

    def presets(self) -> tuple[PresetChoice, ...]:
        """The page's own preset first."""
        from vggrpo.presets import PRESETS

        names = sorted(PRESETS, key=lambda name: name != self.preset)
        return tuple(
            PresetChoice(name=name, summary=PRESETS[name].summary, why_not=self.why_not(name)) for name in names
        )

    def defaults(self, preset: str) -> TrainingInput:
        """What a preset trains with unless told otherwise: the trainer's own table."""
        from vggrpo.grpo.defaults import training_defaults

        config = training_defaults(preset)
        plain = {field.name for field in fields(TrainingInput)} - {"prompts", *REWARD_WEIGHTS}
        return TrainingInput(
            prompts=(),
            **{name: getattr(config, name) for name in plain},
            **{name: getattr(config.weights, name) for name in REWARD_WEIGHTS},
        )

    def transitions(self) -> tuple[str, ...]:
        """Names of the noisy transitions."""
        from vggrpo.grpo.config import GrpoConfig

        return get_args(get_type_hints(GrpoConfig)["transition"])

    def why_not(self, preset: str) -> str:
        """Why this server cannot train a preset, or nothing."""
        if self.environment.why_no_training:
            return self.environment.why_no_training
        from vggrpo.presets import get_preset
        from vggrpo.runtime.errors import UserError

        try:
            configuration = get_preset(preset)
        except UserError as error:
            return str(error)
        folders = configuration.folders
        if folders is not None and not folders.pipeline.is_dir():
            return f"The weights of {preset} are not on this machine."
        if not configuration.closed_vocabulary and not _has_gpu():
            return f"{preset} needs a GPU to train, and this machine has none. The preset tiny trains on any processor."
        return self._why_no_disk()

    def random_prompts(self, count: int, *, seed: int) -> tuple[str, ...]:
        """Captions of random scenes of the procedural world."""
        from vggrpo.worlds.scenes import sample_scene

        count = min(max(count, 1), MOST_PROMPTS)
        return tuple(sample_scene(seed * MOST_PROMPTS + i).caption for i in range(count))

    def estimate(self, *, preset: str, iterations: int, videos: int) -> str:
        """Time and memory in plain words, before anything starts; ``videos`` are those of one iteration."""
        ahead = sum(self._finetune(job).outcome.is_active for job in self._jobs.all())
        cost = self._witness(preset) or SHIPPED.get(preset)
        return estimate_text(cost, iterations=iterations, videos=videos, ahead=ahead)

    def start(self, asked: TrainingInput) -> Finetune:
        """Check, write and queue a fine-tune. Raises ``PageError``."""
        self._check(asked)
        settings = asdict(asked)
        prompts = settings.pop("prompts")
        return self._finetune(self._jobs.submit(settings, prompts=prompts, owner=self._visitor()))

    def stop(self, job_id: str) -> Finetune:
        """Take it out of the queue, or ask it to finish its iteration and keep a checkpoint. Raises ``PageError``."""
        self._require_mine(job_id)
        self._jobs.stop(job_id)
        return self.find(job_id)

    def resume(self, job_id: str) -> Finetune:
        """Go on from the last checkpoint, or anew where there is none. Raises ``PageError``."""
        finetune = self._require_mine(job_id)
        if finetune.outcome.state == "finished":
            raise PageError("this fine-tune has done all its iterations; start a new one to train longer")
        if why_not := self.why_not(str(finetune.job.settings.get("preset"))):
            raise PageError(why_not)
        return self._finetune(self._jobs.resume(job_id))

    def remove(self, job_id: str) -> None:
        """Delete an ended fine-tune and its adapter. Raises ``PageError``."""
        self._require_mine(job_id)
        self._jobs.remove(job_id)

    def find(self, job_id: str) -> Finetune:
        """One fine-tune by its name, which only its visitor and those whom they gave it know. Raises ``PageError``."""
        return self._finetune(self._jobs.find(job_id))

    def is_mine(self, finetune: Finetune) -> bool:
        """Whether the visitor may change it: whoever merely has its address may look."""
        return finetune.job.owner == self._visitor()

    def all(self) -> tuple[Finetune, ...]:
        """Every fine-tune of this visitor, the newest first."""
        mine = self._visitor()
        return tuple(self._finetune(job) for job in self._jobs.all() if job.owner == mine)

    def sweep(self) -> None:
        """Delete fine-tunes that ended long ago, where this server does not keep them all."""
        limits = self.environment.limits
        if limits.finetune_seconds is not None:
            self._jobs.sweep(max_age=limits.finetune_seconds, max_bytes=limits.finetune_bytes)

    def adapters(self) -> tuple[AdapterChoice, ...]:
        """Every adapter that this visitor trained here, the newest first."""
        return tuple(_adapter_of(finetune) for finetune in self.all() if find_adapter(finetune.job.run) is not None)

    def adapter(self, key: str) -> AdapterChoice:
        """The adapter of a fine-tune. Raises ``PageError``."""
        finetune = self.find(key)
        if find_adapter(finetune.job.run) is None:
            raise PageError("this fine-tune has no adapter yet: it comes with the first checkpoint")
        finetune.job.folder.touch()
        return _adapter_of(finetune)

    def _require_mine(self, job_id: str) -> Finetune:
        """Raise ``PageError`` for another visitor's fine-tune."""
        finetune = self.find(job_id)
        if not self.is_mine(finetune):
            raise PageError("this fine-tune is somebody else's: you can look at it and take its files, not change it")
        return finetune

    def _finetune(self, job: Job) -> Finetune:
        return Finetune(job=job, outcome=read_outcome(job, self._jobs.state(job)))

    def _check(self, asked: TrainingInput) -> None:
        """Raise ``PageError`` for the first thing that is wrong."""
        if why_not := self.why_not(asked.preset):
            raise PageError(why_not)
        if len(asked.prompts) > MOST_PROMPTS:
            raise PageError(f"{len(asked.prompts)} prompts are too many: at most {MOST_PROMPTS}")
        if longest := next((prompt for prompt in asked.prompts if len(prompt) > LONGEST_PROMPT), ""):
            raise PageError(f"a prompt has {len(longest)} letters: at most {LONGEST_PROMPT}")
        for name, bounds in BOUNDS.items():
            value = getattr(asked, name)
            if not bounds.low <= value <= bounds.high:
                raise PageError(f"{name.replace('_', ' ')} must be {bounds.low:g} to {bounds.high:g}, not {value:g}")
        most, videos = self.environment.limits.finetune_videos, asked.iterations * asked.groups * asked.group_size
        if most is not None and videos > most:
            raise PageError(
                f"this would draw {videos} videos, and at most {most} fit here: ask for fewer iterations, prompts an "
                "iteration, or videos of each"
            )
        if asked.transition not in self.transitions():
            raise PageError(f"there is no transition {asked.transition!r}: choose {', '.join(self.transitions())}")
        if not any(getattr(asked, name) > 0 for name in REWARD_WEIGHTS):
            raise PageError("all reward weights are 0: there is nothing to learn")

    def _command(self, job: Job) -> list[str]:
        """The argument list of a job, its settings checked anew. Raises ``PageError``."""
        if newest_checkpoint(job.run) is not None:
            return [*self._program, "--out", str(job.run), "--resume"]
        if job.run.exists():
            # It ended before its first checkpoint: nothing is lost, and the trainer wants an empty folder.
            shutil.rmtree(job.run)
        asked = _input_of(job)
        self._check(asked)
        options = [text for name, flag in FLAGS.items() for text in (flag, _argument(getattr(asked, name)))]
        prompts = ["--prompts", str(job.prompts)] if asked.prompts else []
        return [*self._program, *options, *prompts, "--out", str(job.run)]

    def _witness(self, preset: str) -> Cost | None:
        """What the newest fine-tune of this preset cost on this server."""
        for job in self._jobs.all():
            if job.settings.get("preset") != preset:
                continue
            when = time.strftime("%d %b %H:%M", time.localtime(job.created))
            videos = int(job.settings.get("group_size") or 0) * int(job.settings.get("groups") or 0)
            where = f"on this server in the fine-tune of {when}"
            cost = cost_of(read_history(job.run), videos=videos, where=where)
            if cost is not None:
                return cost
        return None

    def _why_no_disk(self) -> str:
        folder = self._jobs.root
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free / 1e6
        if free >= LEAST_DISK_MB:
            return ""
        return (
            f"The server's disk has only {free:.0f} MB left; a training needs {LEAST_DISK_MB} MB for its checkpoints."
        )


def read_prompts(text: str) -> tuple[str, ...]:
    """One prompt a line; blank lines and stray control characters go."""
    cleaned = ("".join(letter for letter in line if letter.isprintable()).strip() for line in text.splitlines())
    return tuple(line for line in cleaned if line)


def _input_of(job: Job) -> TrainingInput:
    """A job's settings as they were asked. Raises ``PageError`` for a file of another version or another hand."""
    settings = dict(job.settings)
    expected = get_type_hints(TrainingInput)
    del expected["prompts"]
    wrong = [name for name, kind in expected.items() if type(settings.get(name)) is not kind]
    if wrong or set(settings) != set(expected):
        raise PageError(f"job.json is damaged or of another version: {', '.join(wrong) or 'unknown settings'}")
    return TrainingInput(prompts=read_prompts(job.prompts.read_text(encoding="utf-8")), **settings)


def _argument(value: float | str) -> str:
    """A setting as the command line reads it."""
    return value if isinstance(value, str) else repr(value)


def _adapter_of(finetune: Finetune) -> AdapterChoice:
    outcome = finetune.outcome
    label = f"Fine-tune of {finetune.title}, after {outcome.iteration}"
    return AdapterChoice(key=finetune.job.job_id, label=label, path=finetune.job.run / "adapter")


def _has_gpu() -> bool:
    from vggrpo.runtime.gpu import has_gpu

    return has_gpu()
