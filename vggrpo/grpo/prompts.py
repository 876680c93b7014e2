"""Which prompts are trained on and which are held out, and in which order training meets them.

The two sets never share a prompt. The order is a function of the seed and of how many groups came before, so a resumed
run, and a run on another number of processes, meets the same prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vggrpo.runtime.errors import UserError
from vggrpo.worlds import FIRST_TRAINING_SEED, sample_scene

HELD_OUT_SHARE = 5
"""One prompt in this many of a file is held out."""
_MAX_FILE_BYTES = 4 * 2**20
_ORDER = 0x0D3A


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSets:
    """Prompts to train on, and others to evaluate on."""

    training: tuple[str, ...]
    evaluation: tuple[str, ...]

    def __post_init__(self) -> None:
        """Neither may be empty, and no prompt may be in both."""
        shared = set(self.training) & set(self.evaluation)
        if shared:
            raise UserError(f"A prompt is both trained on and held out: {min(shared)!r}; take it out of one file.")
        if not self.training:
            raise UserError("There is no prompt to train on.")

    def of_group(self, number: int, *, seed: int) -> str:
        """The training prompt of the run's group ``number``: each prompt once, in a new order every time round."""
        epoch, position = divmod(number, len(self.training))
        order = np.random.default_rng([seed, epoch, _ORDER]).permutation(len(self.training))
        return self.training[int(order[position])]


def choose_prompts(
    *,
    training_file: Path | None,
    evaluation_file: Path | None,
    training_captions: int,
    evaluation_clips: int,
    clip_captions: Sequence[str] | None = None,
) -> PromptSets:
    """The prompt sets of a run; ``clip_captions`` stand for a training file where clips are learnt from.

    Without files both are captions of the procedural world, from seeds that pretraining trains on and from seeds that
    it holds out. Of a training file of five prompts or more a fifth is held out (at most ``evaluation_clips``) unless
    there is a file of held-out prompts; a shorter one is evaluated on captions.

    Raises:
        UserError: a file cannot be read or holds no prompt, or the files share one.
    """
    given = None if training_file is None else read_prompts(training_file)
    if clip_captions is not None:
        given = tuple(dict.fromkeys(clip_captions))
    if evaluation_file is not None:
        evaluation = read_prompts(evaluation_file)[:evaluation_clips]
        training = given or _captions(FIRST_TRAINING_SEED, count=training_captions, without=frozenset(evaluation))
        if clip_captions is not None:
            # Clips are many and their captions not chosen: what is held out is simply not trained on.
            training = tuple(caption for caption in training if caption not in set(evaluation))
        return PromptSets(training=training, evaluation=evaluation)
    if given is not None and len(given) >= HELD_OUT_SHARE:
        held_out = given[::HELD_OUT_SHARE][:evaluation_clips]
        return PromptSets(training=tuple(p for p in given if p not in set(held_out)), evaluation=held_out)
    evaluation = _captions(0, count=evaluation_clips, without=frozenset(given or ()))
    training = given or _captions(FIRST_TRAINING_SEED, count=training_captions, without=frozenset(evaluation))
    return PromptSets(training=training, evaluation=evaluation)


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a file, one a line, each once; blank lines and lines that begin with # are left out."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise UserError(f"{path} is too large for a list of prompts.")
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: give a text file with one prompt a line.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: give a UTF-8 text file with one prompt a line.") from error
    prompts = tuple(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.startswith("#")))
    if not prompts:
        raise UserError(f"{path} holds no prompt: write one a line.")
    return prompts


def _captions(first_seed: int, *, count: int, without: frozenset[str]) -> tuple[str, ...]:
    """``count`` different captions of scenes from ``first_seed`` on."""
    found: dict[str, None] = {}
    seed = first_seed
    while len(found) < count:
        caption = sample_scene(seed).caption
        if caption not in without:
            found[caption] = None
        seed += 1
    return tuple(found)
