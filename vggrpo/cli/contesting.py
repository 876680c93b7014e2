"""``evaluate adapters``: tuned adapters against the base model, by judges that no training saw."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text

from vggrpo.cli.command_line import shown_command
from vggrpo.cli.evaluate_commands import EvaluateAdapters
from vggrpo.cli.model_choice import check_choice, load_listener, open_studio
from vggrpo.cli.recording import Part, loaded_weights
from vggrpo.cli.terminal import Outcome, PhaseProgress, note
from vggrpo.presets import Preset
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_text, require_writable
from vggrpo.runtime.run_folder import read_json, write_json
from vggrpo.runtime.run_lock import RunLock

if TYPE_CHECKING:
    from vggrpo.cli.contestant_choice import Entrants
    from vggrpo.evaluation.contest.drive import Contest, ContestModels
    from vggrpo.evaluation.contest.question import Question
    from vggrpo.evaluation.contest.tables import Sheet
    from vggrpo.evaluation.results import Provenance
    from vggrpo.evaluation.subjects import LatentReader
    from vggrpo.generation import Studio
    from vggrpo.generation.judging import JudgeChoice, LoadedJudges

KIND, GUIDANCE = "contest", "guidance"
RESULT, TIMES = "contest.json", "seconds.json"
OUT, QUICK_OUT = Path("runs/contest"), Path("runs/contest-quick")
_MOST_BATCH = 256
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


def run(command: EvaluateAdapters) -> Outcome:
    """Everything that can be wrong with the request is said before a model is loaded."""
    preset = check_choice(command)
    out = _check(command)
    from vggrpo.cli.contest_setup import question_of, requests_of
    from vggrpo.cli.contestant_choice import choose_entrants, require_unseen
    from vggrpo.generation.judging import check_judges

    entrants = choose_entrants(command, preset)
    question = question_of(command, preset)
    for entrant in entrants.entrants:
        requests_of(command, preset, entrant, question=question, takes=question.takes()[:1])
    require_unseen(entrants, frozenset(prompt.text for prompt in question.prompts))
    check_judges(preset, _judge_choice(command), reward_geometry=command.geometry)
    for line in entrants.absent:
        note(f"note: {line}")
    asked = _Asked(command=command, preset=preset, question=question, entrants=entrants, out=out)
    with _folder(out), PhaseProgress() as progress:
        with _counted_seconds(out):
            done = _compare(asked, progress)
        progress.phase("report")
        return _report(done)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """The request, checked."""

    command: EvaluateAdapters
    preset: Preset
    question: "Question"
    entrants: "Entrants"
    out: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class _Done:
    """A folder that holds everything, and what made it; ``asked`` as it could be done."""

    asked: _Asked
    contest: "Contest"
    weights: dict[str, str]
    device: torch.device


def _compare(asked: _Asked, progress: PhaseProgress) -> _Done:
    """Draw and judge what is missing. Raises a UserError for an adapter that does not fit, before anything is drawn."""
    from vggrpo.cli.contest_setup import true_clips_of
    from vggrpo.evaluation.contest.drive import Contest, run_contest
    from vggrpo.evaluation.contest.files import ContestFolder
    from vggrpo.generation.judging import load_judges

    progress.phase("load")
    studio = open_studio(asked.command, progress)
    latent_geometry = _latent_geometry(asked, studio)
    if latent_geometry is None:
        asked = replace(asked, entrants=unguided(asked.entrants))
    for entrant in asked.entrants.entrants:
        if entrant.adapter is not None:
            studio.require_fitting(entrant.adapter)
    studio.prepare_text([prompt.text for prompt in asked.question.prompts])
    judges = load_judges(
        asked.preset,
        _judge_choice(asked.command),
        models=studio.models,
        reward_geometry=asked.command.geometry,
        offline=asked.command.offline,
        listener=load_listener(progress),
    )
    models = _models(asked, studio, judges, latent_geometry=latent_geometry)
    contest = Contest(
        question=asked.question,
        contestants=tuple(entrant.contestant for entrant in asked.entrants.entrants),
        true=true_clips_of(asked.command, asked.preset, question=asked.question),
        folder=ContestFolder(path=asked.out, preset=asked.preset.name),
        batch=asked.command.batch,
    )
    weights = _weights(studio, has_latent_geometry=latent_geometry is not None)
    contest.folder.open(_question_json(asked) | {"models": weights, "judges": judges.description})
    run_contest(contest, models, on_progress=progress.show)
    return _Done(asked=asked, contest=contest, weights=weights, device=studio.models.device)


def _models(
    asked: _Asked, studio: "Studio", judges: "LoadedJudges", *, latent_geometry: "LatentReader | None"
) -> "ContestModels":
    from vggrpo.cli.contest_setup import draw_of
    from vggrpo.evaluation.contest.drive import ContestModels

    def release() -> None:
        # The judges may need its place.
        if asked.preset.is_released_model:
            studio.models.release("transformer")

    return ContestModels(
        draw=draw_of(studio, asked.command, entrants=asked.entrants, question=asked.question),
        vae=studio.vae,
        judges=judges.judges,
        latent_geometry=latent_geometry,
        device=studio.models.device,
        drawing_done=release,
    )


def _latent_geometry(asked: _Asked, studio: "Studio") -> "LatentReader | None":
    """Φ_g; of a released preset for which none is trained, None, unless the user named what needs it (a UserError)."""
    try:
        return studio.models.latent_geometry
    except UserError as error:
        is_named = asked.command.latent_geometry is not None or GUIDANCE in asked.command.contestants
        if is_named or not asked.preset.is_released_model:
            raise
        note(f"note: rewards of training are left out: {error}")
        return None


def unguided(entrants: "Entrants") -> "Entrants":
    """Without those that a latent geometry model must guide; they are told among the absent."""
    kept = tuple(entrant for entrant in entrants.entrants if entrant.reward_guidance is None)
    gone = [entrant.contestant.title for entrant in entrants.entrants if entrant.reward_guidance is not None]
    absent = (f"{title} needs a latent geometry model: make one with `python -m vggrpo train-lgm`" for title in gone)
    return replace(entrants, entrants=kept, absent=(*entrants.absent, *absent))


def _weights(studio: "Studio", *, has_latent_geometry: bool) -> dict[str, str]:
    parts: list[Part] = ["vae", "transformer"]
    return loaded_weights(studio.models, [*parts, "latent_geometry"] if has_latent_geometry else parts)


def _report(done: _Done) -> Outcome:
    """The report in the folder, in assets/results if asked, and for the terminal."""
    from vggrpo.evaluation.contest.markdown import markdown
    from vggrpo.evaluation.contest.remarks import remarks_of
    from vggrpo.evaluation.contest.report import report_of
    from vggrpo.evaluation.contest.tables import LEGEND, page_sheets, terminal_sheets
    from vggrpo.evaluation.results import Result, result_path, write_result

    asked = done.asked
    report = report_of(done.contest, champion=asked.command.champion)
    remarks = (*remarks_of(report), *asked.entrants.absent)
    provenance = _provenance(done)
    content = report.to_json() | {"question": _question_json(asked), "remarks": list(remarks)}
    page = markdown(page_sheets(report), title=_title(asked), facts=_facts(provenance), remarks=remarks)
    places = [asked.out / RESULT] + ([result_path(asked.command.name)] if asked.command.record else [])
    for place in places:
        write_result(place, Result(kind=KIND, provenance=provenance, content=content))
        atomic_write_text(place.with_suffix(".md"), page)
    told = [LEGEND, *remarks, f"The whole report: {places[-1].with_suffix('.md')} and .json."]
    sheets = [sheet for sheet in terminal_sheets(report) if sheet.rows]
    shown = Group(*(_rich_table(sheet) for sheet in sheets), Text("\n".join(["", *told])))
    return Outcome(result={"kind": KIND, **asdict(provenance), "result": content}, shown=shown)


def _rich_table(sheet: "Sheet") -> Table:
    table = Table(title=f"\n{sheet.title}", title_justify="left", pad_edge=False)
    for column in sheet.columns:
        table.add_column(column)
    for row in sheet.rows:
        if sheet.is_grouped and row[0]:
            table.add_section()
        table.add_row(*row)
    return table


def _check(command: EvaluateAdapters) -> Path:
    """Where the comparison is kept; raises a UserError for the first thing that is wrong."""
    if not 1 <= command.batch <= _MOST_BATCH:
        raise UserError(f"A batch of {command.batch} was asked for; give 1 to {_MOST_BATCH}.")
    if not _FILE_NAME.fullmatch(command.name):
        raise UserError(f"--name {command.name!r} is no file name: give letters, digits, - and _.")
    for path in (command.static_prompts, command.dynamic_prompts, command.true_videos):
        if path is not None and not path.exists():
            raise UserError(f"{path} does not exist.")
    out = command.out or (QUICK_OUT if command.quick else OUT)
    require_writable(out)
    return out


def _judge_choice(command: EvaluateAdapters) -> "JudgeChoice":
    from vggrpo.generation.judging import JudgeChoice

    return JudgeChoice(geometry=command.judge_geometry, weights=command.judge_weights, objects=command.judge)


def _question_json(asked: _Asked) -> dict[str, object]:
    """What decides the videos and what is said of them, but for the models."""
    command, preset = asked.command, asked.preset
    return {
        "preset": preset.name,
        "video": {"height": preset.height, "width": preset.width, "frames": preset.num_frames, "fps": preset.fps},
        "sampler": {
            "steps": command.steps or preset.steps,
            "guidance": preset.guidance if command.guidance is None else command.guidance,
            "flow_shift": preset.flow_shift,
        },
        "prompts": [asdict(prompt) for prompt in asked.question.prompts],
        "repeats": asked.question.repeats,
        "seed": asked.question.seed,
    }


def _provenance(done: _Done) -> "Provenance":
    from vggrpo.evaluation.results import take_provenance

    asked = done.asked
    adapters = {
        entrant.contestant.name: str(entrant.contestant.about["adapter"])
        for entrant in asked.entrants.entrants
        if entrant.adapter is not None
    }
    return take_provenance(
        shown_command(asked.command, words="evaluate"),
        preset=asked.preset.name,
        device=done.device,
        seconds=_seconds(asked.out),
        seeds={"seed": asked.question.seed, "repeats": asked.question.repeats},
        weights=done.weights | adapters,
    )


@contextmanager
def _folder(out: Path) -> Iterator[None]:
    """The folder, held against a second process, and gone again if nothing came of it."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with RunLock(out):
            yield
    finally:
        if not any(out.iterdir()):
            out.rmdir()


@contextmanager
def _counted_seconds(out: Path) -> Iterator[None]:
    """Adds what the block takes to the folder's time, also when it is cut off; a folder with nothing in it goes."""
    from vggrpo.evaluation.contest.files import QUESTION

    before, began = _seconds(out), time.monotonic()
    try:
        yield
    finally:
        if (out / QUESTION).is_file():
            write_json(out / TIMES, {"seconds": before + time.monotonic() - began})


def _seconds(out: Path) -> float:
    file = out / TIMES
    return float(str(read_json(file).get("seconds", 0.0))) if file.is_file() else 0.0


def _title(asked: _Asked) -> str:
    question = asked.question
    kinds = " and ".join(f"{len(question.indices(kind))} {kind}" for kind in ("static", "dynamic"))
    return f"{asked.preset.name}: {kinds} held-out prompts × {question.repeats} videos"


def _facts(provenance: "Provenance") -> Sequence[str]:
    return (
        f"`{provenance.command}`",
        f"{provenance.date[:10]}, {provenance.device}, {provenance.seconds / 60:.0f} minutes in all",
    )
