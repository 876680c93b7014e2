"""What a comparison needs of the loaded models: prompts, true clips, how contestants draw, what judges read."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from vggrpo.cli.contestant_choice import Entrant, Entrants
from vggrpo.cli.evaluate_commands import EvaluateAdapters
from vggrpo.evaluation.contest.contestants import Contestant, Draw, TrueClips
from vggrpo.evaluation.contest.question import Question, Take, given_prompts, held_out_worlds
from vggrpo.generation.batch import denoise_batch
from vggrpo.generation.request import GenerateRequest
from vggrpo.grpo.prompts import read_prompts
from vggrpo.latents import video_from_frames
from vggrpo.presets import Preset
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents
from vggrpo.worlds import make_clip

if TYPE_CHECKING:
    from vggrpo.generation import Studio
    from vggrpo.worlds.clip_decoding import VideoClip

PROMPTS, QUICK_PROMPTS = 64, 4
REFERENCE, QUICK_REFERENCE = 32, 8
"""True clips for the Fréchet distance, at least; as many as prompts where these are more."""
FEWEST_TRUE = 8


def question_of(command: EvaluateAdapters, preset: Preset) -> Question:
    """The prompts of a command. Raises a UserError for files that are not there, or where there is no prompt."""
    files = (command.static_prompts, command.dynamic_prompts)
    if any(files):
        if command.count is not None:
            raise UserError("--count is of held-out worlds: with prompts of your own, give as many as you want.")
        static, dynamic = (() if file is None else read_prompts(file) for file in files)
        if command.quick:
            static, dynamic = static[: QUICK_PROMPTS // 2], dynamic[: QUICK_PROMPTS // 2]
        return Question(
            prompts=given_prompts(static=static, dynamic=dynamic), repeats=command.repeats, seed=command.seed
        )
    if not preset.closed_vocabulary:
        raise UserError(
            f"{preset.name} draws more than the procedural world: give --static-prompts, --dynamic-prompts."
        )
    count = command.count if command.count is not None else QUICK_PROMPTS if command.quick else PROMPTS
    prompts = held_out_worlds(count, seed=command.seed)
    return Question(prompts=prompts, repeats=command.repeats, seed=command.seed)


def requests_of(
    command: EvaluateAdapters, preset: Preset, entrant: Entrant, *, question: Question, takes: Sequence[Take]
) -> list[GenerateRequest]:
    """What a contestant is asked. Raises a UserError for settings that cannot be drawn with."""
    return [
        GenerateRequest(
            prompt=question.prompts[take.prompt].text,
            preset=preset.name,
            seed=question.noise_seed(take),
            steps=command.steps,
            guidance=command.guidance,
            adapter=entrant.adapter,
            reward_guidance=entrant.reward_guidance,
        )
        for take in takes
    ]


def draw_of(studio: "Studio", command: EvaluateAdapters, *, entrants: Entrants, question: Question) -> Draw:
    """The preset's own sampler with each contestant's adapter or guidance."""
    by_name = {entrant.contestant.name: entrant for entrant in entrants.entrants}

    def draw(contestant: Contestant, takes: Sequence[Take]) -> Latents:
        entrant = by_name[contestant.name]
        return denoise_batch(studio, requests_of(command, studio.preset, entrant, question=question, takes=takes))

    return draw


def true_clips_of(command: EvaluateAdapters, preset: Preset, *, question: Question) -> TrueClips | None:
    """Held-out true clips: worlds filmed steadily, or the user's videos; None where there are neither."""
    prompts = len(question.prompts)
    least = max(prompts, QUICK_REFERENCE if command.quick else REFERENCE)
    if command.true_videos is not None:
        return _videos(command.true_videos, preset, judged=prompts, reference=least)
    if not preset.closed_vocabulary:
        return None
    return _worlds(preset, judged=prompts, reference=least, seed=command.seed)


def _worlds(preset: Preset, *, judged: int, reference: int, seed: int) -> TrueClips:
    """The worlds of the prompts first, then further ones."""
    worlds = held_out_worlds(reference + judged, seed=seed)

    def film(number: int) -> Float[Tensor, "1 3 N H W"]:
        world = worlds[number].world
        assert world is not None, "held-out worlds have seeds"
        clip = make_clip(world, num_frames=preset.num_frames, height=preset.height, width=preset.width, jitter=False)
        return video_from_frames(torch.from_numpy(clip.rgb)[None])

    return TrueClips(
        film=film,
        names=tuple(f"world {prompt.world}" for prompt in worlds),
        captions=tuple(prompt.text for prompt in worlds),
        kinds=tuple(prompt.kind for prompt in worlds),
        judged=judged,
        reference=reference,
    )


def _videos(folder: Path, preset: Preset, *, judged: int, reference: int) -> TrueClips:
    """One half of the clips is the reference, the other is held against it."""
    from vggrpo.worlds.clip_decoding import ClipShape, UnusableVideo, read_clip
    from vggrpo.worlds.video_folder import ClipPicker
    from vggrpo.worlds.video_layouts import list_videos

    shape = ClipShape(num_frames=preset.num_frames, height=preset.height, width=preset.width, fps=preset.fps)
    picker = ClipPicker(listing=list_videos(folder, shape=shape), shape=shape)
    clips: list[VideoClip] = list(islice(picker.clips(), 2 * reference))
    if len(clips) < FEWEST_TRUE:
        raise UserError(
            f"{folder} gives {len(clips)} clips of {shape.num_frames} frames at {shape.fps:g} a second: the Fréchet "
            f"distance takes at least {FEWEST_TRUE}."
        )

    def film(number: int) -> Float[Tensor, "1 3 N H W"]:
        clip = clips[number]
        try:
            return video_from_frames(torch.from_numpy(read_clip(clip))[None])
        except UnusableVideo as error:
            raise UserError(f"{folder / clip.source.name}: {error}; take it out of the folder.") from error

    half = (len(clips) + 1) // 2
    return TrueClips(
        film=film,
        names=tuple(clip.identity for clip in clips),
        captions=tuple(clip.source.caption or "" for clip in clips),
        kinds=(None,) * len(clips),
        judged=min(judged, half),
        reference=half,
    )
