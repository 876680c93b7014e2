"""From what the user names, or what is trained, to contestants: adapters with what is known of their training."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE

from vggrpo.cli.evaluate_commands import EvaluateAdapters
from vggrpo.evaluation.contest.contestants import BASE, BLURRED, GUIDANCE, TRUE, Contestant
from vggrpo.evaluation.results import weights_digest
from vggrpo.grpo.config import MAY_CHANGE_ON_RESUME, GrpoConfig
from vggrpo.grpo.defaults import training_defaults
from vggrpo.grpo.run_files import ADAPTER_FOLDER, STATUS_NAME, PromptSets, read_prompt_sets
from vggrpo.policy.guidance import RewardGuidance
from vggrpo.presets import ASSETS, Preset
from vggrpo.pretraining.assets import ADAPTER_NAME, ADAPTERS, MANIFEST, TUNED
from vggrpo.runtime.config_file import CONFIG_NAME, read_mapping, with_settings
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.run_folder import read_json

LINEUP = ASSETS.parent / "configs" / "contestants"
"""Settings of the contestants that this project trains, one file each."""
RUNS = Path("runs")
"""Where `train` puts them, as the files say."""
SHIPPED = ASSETS / ADAPTERS / ADAPTER_NAME
"""The adapter that ships; how it was trained stands in the MANIFEST."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_MOST_BLUR = 20.0
_SEEN = {"epipolar": frozenset({"sampson"})}
"""Measures that a preference ranks by: no independent judges of what it trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrant:
    """A contestant and how its videos are drawn; ``training_prompts`` are those that its run folder names."""

    contestant: Contestant
    adapter: Path | None = None
    reward_guidance: RewardGuidance | None = None
    training_prompts: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrants:
    """Who takes part, base first; ``absent`` says of each of the others how to have it."""

    entrants: tuple[Entrant, ...]
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Training:
    """What a run folder tells of its training."""

    note: str | None = None
    objective: str | None = None
    videos: int | None = None
    seen: frozenset[str] = field(default_factory=frozenset)
    prompts: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    """Settings of a training as they were written down, and how many iterations it came to (None: all of them)."""

    settings: Mapping[str, object]
    iterations: int | None
    source: str
    prompts: PromptSets | None = None

    @property
    def preset(self) -> str | None:
        found = self.settings.get("preset")
        return None if found is None else str(found)

    @property
    def config(self) -> GrpoConfig:
        return with_settings(training_defaults(self.preset or "tiny"), self.settings, source=self.source)


def choose_entrants(command: EvaluateAdapters, preset: Preset) -> Entrants:
    """The contestants of a command.

    Raises:
        UserError: a name is not one, is taken twice, or an adapter is not there or was trained on another preset.
    """
    base = Entrant(contestant=Contestant(name=BASE, title="base", about={"adapter": None}))
    if command.contestants:
        chosen = [_named(word, command, preset) for word in command.contestants]
        names = [entrant.contestant.name for entrant in chosen]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"Two contestants are called {twice!r}: give each a name of its own.")
        return Entrants(entrants=(base, *chosen))
    lineup = _from_lineup(command, preset)
    controls = (_guidance(command), _blurred(command))
    return Entrants(entrants=(base, *lineup.entrants, *controls), absent=lineup.absent)


def require_unseen(entrants: Entrants, prompts: frozenset[str]) -> None:
    """Raise a UserError where a contestant was trained on a prompt of the comparison."""
    for entrant in entrants.entrants:
        seen = prompts & entrant.training_prompts
        if seen:
            raise UserError(
                f"{entrant.contestant.name} was trained on {len(seen)} of these prompts, for example {min(seen)!r}: "
                "compare on prompts that no training has seen."
            )


def _named(word: str, command: EvaluateAdapters, preset: Preset) -> Entrant:
    if word == GUIDANCE:
        return _guidance(command)
    if word == BLURRED:
        return _blurred(command)
    name, equals, path = word.partition("=")
    if not equals or not path:
        raise UserError(f"{word!r} is no contestant: give NAME=PATH of an adapter, or a word: {GUIDANCE}, {BLURRED}.")
    if not _NAME.fullmatch(name) or name in {BASE, TRUE, GUIDANCE, BLURRED}:
        reserved = f"{BASE}, {TRUE}, {GUIDANCE} and {BLURRED} are taken"
        raise UserError(f"{name!r} is no name for a contestant: give letters, digits, - and _; {reserved}.")
    title = _title(_lineup_folder(command) / f"{name}.yaml")
    return _entrant(name, Path(path), preset=preset, title=title or name)


def _guidance(command: EvaluateAdapters) -> Entrant:
    settings = RewardGuidance(scale=command.reward_guidance, every=command.reward_guidance_every)
    about = {
        "adapter": None,
        "reward_guidance": {
            "scale": settings.scale,
            "every": settings.every,
            "max_factor": settings.max_factor,
            "max_share": settings.max_share,
        },
    }
    note = f"scale {settings.scale:g}, every {settings.every} steps; nothing is trained"
    contestant = Contestant(name=GUIDANCE, title="reward guidance alone", note=note, about=about)
    return Entrant(contestant=contestant, reward_guidance=settings)


def _blurred(command: EvaluateAdapters) -> Entrant:
    if not 0.0 < command.blur <= _MOST_BLUR:
        raise UserError(f"--blur is {command.blur:g}; give pixels, more than 0 and at most {_MOST_BLUR:g}.")
    contestant = Contestant(
        name=BLURRED,
        title="base, blurred",
        note=f"every frame of base's videos, σ {command.blur:g} px; nothing is trained",
        about={"adapter": None, "blur": command.blur},
        blur=command.blur,
    )
    return Entrant(contestant=contestant)


def _from_lineup(command: EvaluateAdapters, preset: Preset) -> Entrants:
    """Every settings file whose adapter lies where its training puts it, or ships."""
    folder = _lineup_folder(command)
    entrants, absent = [], []
    for file in sorted(folder.glob("*.yaml")):
        places = [ASSETS / folder.name / file.stem, RUNS / folder.name / file.stem]
        if _trains_the_shipped(file, preset):
            places.append(SHIPPED)
        path = next((place for place in places if _adapter_file(place) is not None), None)
        trained_on = None if path is None else _preset_of(path)
        if path is not None and trained_on in {None, preset.name}:
            entrants.append(_entrant(file.stem, path, preset=preset, title=_title(file) or file.stem))
        else:
            why = "is not trained yet" if path is None else f"is trained on {trained_on}"
            absent.append(f"{_title(file) or file.stem} {why}: `{_command(file)}`")
    return Entrants(entrants=tuple(entrants), absent=tuple(absent))


def _lineup_folder(command: EvaluateAdapters) -> Path:
    if command.lineup is None:
        return LINEUP
    if not command.lineup.is_dir():
        raise UserError(f"{command.lineup} is no folder: give one that holds training settings, NAME.yaml.")
    return command.lineup


def _entrant(name: str, path: Path, *, preset: Preset, title: str) -> Entrant:
    file = _adapter_file(path)
    if file is None:
        raise UserError(
            f"{path} holds no adapter of {name}: give a run of `train` (with its folder adapter), that folder, or a "
            ".safetensors file."
        )
    trained_on = _preset_of(path)
    if trained_on not in {None, preset.name}:
        raise UserError(f"{path} was trained on {trained_on}: it cannot take part in a comparison on {preset.name}.")
    training = _training(path)
    contestant = Contestant(
        name=name,
        title=title,
        note=training.note,
        about={"adapter": weights_digest(file)},
        seen=training.seen,
        objective=training.objective,
        videos=training.videos,
    )
    return Entrant(contestant=contestant, adapter=file, training_prompts=training.prompts)


def _adapter_file(path: Path) -> Path | None:
    """The LoRA of a run folder, of an adapter's folder, or the file itself."""
    places = (path / ADAPTER_FOLDER / LORA_WEIGHT_NAME_SAFE, path / LORA_WEIGHT_NAME_SAFE, path)
    return next((place for place in places if place.is_file()), None)


def _run_folder(path: Path) -> Path | None:
    """Where config.yaml of the training lies: in the folder that was named, or in the one around it."""
    near = [path, path.parent] if path.is_dir() else [path.parent, path.parent.parent]
    return next((folder for folder in near if (folder / CONFIG_NAME).is_file()), None)


def _record_of(path: Path) -> _Record | None:
    """What the run folder says, of the adapter that ships the MANIFEST; None for an adapter that came alone."""
    run = _run_folder(path)
    if run is not None:
        settings = read_mapping(run / CONFIG_NAME)
        status = read_json(run / STATUS_NAME) if (run / STATUS_NAME).is_file() else {}
        iterations = status.get("iteration")
        return _Record(
            settings=settings,
            iterations=None if iterations is None else int(str(iterations)),
            source=str(run / CONFIG_NAME),
            prompts=read_prompt_sets(run),
        )
    return _shipped_record() if path.resolve().is_relative_to(SHIPPED) else None


def _shipped_record() -> _Record | None:
    """How the adapter that ships was trained; None where none does."""
    manifest = ASSETS / MANIFEST
    parts = read_json(manifest).get("parts") if manifest.is_file() else None
    part = parts.get(TUNED) if isinstance(parts, dict) else None
    if not isinstance(part, dict) or not isinstance(part.get("settings"), dict):
        return None
    return _Record(settings=part["settings"], iterations=int(str(part["steps"])), source=str(manifest))


def _trains_the_shipped(file: Path, preset: Preset) -> bool:
    """Whether a settings file is of the very training whose adapter ships."""
    record = _shipped_record()
    if record is None:
        return False
    # The preset is one of the settings.
    asked = with_settings(training_defaults(preset.name), read_mapping(file), source=str(file))
    return not asked.differences(record.config).keys() - MAY_CHANGE_ON_RESUME


def _preset_of(path: Path) -> str | None:
    record = _record_of(path)
    return None if record is None else record.preset


def _training(path: Path) -> _Training:
    """What is known; nothing for an adapter that came alone."""
    record = _record_of(path)
    if record is None:
        return _Training()
    config = record.config
    iterations = config.iterations if record.iterations is None else record.iterations
    is_ranked = config.objective == "dpo"
    return _Training(
        note=f"{iterations} iterations × {config.groups} groups × {config.group_size} videos",
        objective=config.objective,
        videos=iterations * config.groups * config.group_size,
        seen=_SEEN.get(config.preference, frozenset()) if is_ranked else frozenset(),
        prompts=frozenset() if record.prompts is None else frozenset(record.prompts.training),
    )


def _comments(file: Path) -> list[str]:
    """The comment lines at the head of a settings file: its title, and the command that trains it."""
    if not file.is_file():
        return []
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").strip())
    return lines


def _title(file: Path) -> str | None:
    comments = _comments(file)
    return comments[0] if comments else None


def _command(file: Path) -> str:
    """What trains it: the file's second comment line, or the form that all of them have."""
    comments = _comments(file)
    if len(comments) > 1 and comments[1].startswith("python -m vggrpo train"):
        return comments[1]
    return f"python -m vggrpo train --config {file} --out {RUNS / file.parent.name / file.stem}"
