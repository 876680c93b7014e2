"""Supervised fine-tuning: its loss against diffusers' noise scheduler, a clip that is learnt, clips that are not."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.grpo.test_trainer import logged
from tests.grpo.toy import CONFIG, PROMPTS, SHAPE, ToyClips, make_models, run
from vggrpo.grpo.flow_matching import NoiseDraws
from vggrpo.grpo.flow_sft import ClipBatch
from vggrpo.grpo.prompts import PromptSets
from vggrpo.grpo.trainer import train
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents

SFT = replace(CONFIG, objective="sft", noise_draws=2)
CPU = torch.device("cpu")


@torch.no_grad()
def test_the_loss_is_the_flow_matching_loss_of_diffusers() -> None:
    """Noise added by its scheduler's ``scale_noise``, target x_1 − x_0, timestep 1000 t, the caption."""
    models = make_models()
    clean = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    draws = NoiseDraws(seed=0, iteration=2, group=1, count=4, draws=3, shift=3.0)
    batch = ClipBatch(
        conditions=models.conditions,
        clean=clean,
        captions=("one", "two"),
        usable=torch.ones(2, dtype=torch.bool),
        draws=draws,
        members=slice(2, 4),
        number=0,
    )
    noise, fraction = draws.noise([2, 3], draw=1, shape=SHAPE, device=CPU), draws.fractions([2, 3], draw=1)
    scheduler = FlowMatchEulerDiscreteScheduler()
    expected = []
    for row, caption in enumerate(batch.captions):
        scheduler.set_timesteps(sigmas=[float(fraction[row])])
        noisy = scheduler.scale_noise(clean[row : row + 1], scheduler.timesteps, noise[row : row + 1])
        velocity = models.transformer(
            hidden_states=noisy, timestep=scheduler.timesteps, encoder_hidden_states=models.embed(caption)
        ).sample
        expected.append(torch.nn.functional.mse_loss(velocity, noise[row : row + 1] - clean[row : row + 1]))
    found = batch.loss(models.transformer, 1)
    torch.testing.assert_close(found.loss, torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert (batch.passes, found.logged, found.ratio) == (3, {}, None)


def test_a_clip_is_learnt_by_heart(tmp_path: Path) -> None:
    """One caption with one clip: its error falls, and what is drawn for it comes nearer to it."""

    @dataclass
    class OneClip:
        def latents(self, _caption: str, *, number: int) -> Latents:
            assert number >= 0
            return Latents(tensor=torch.ones(1, *SHAPE))

    config = replace(SFT, iterations=12, learning_rate=1e-2, evaluate_every=12, lora_rank=8)
    models = replace(make_models(), clips=OneClip())
    prompts = PromptSets(training=("one",), evaluation=("two",))
    train(config, models, prompts=prompts, out=tmp_path)
    rows = logged(tmp_path)
    assert rows[-1]["loss"] < 0.9 * rows[1]["loss"]
    # The clip's brightness is 1, the base's about 0; the reward of these models is brightness.
    assert rows[-1]["eval/motion_smoothness/gain"] > 0.05
    assert not any(name.startswith(("ratio/", "reward/", "advantage/")) for name in rows[-1])


def test_every_caption_once_before_any_comes_again(tmp_path: Path) -> None:
    """Three captions, eight clips an iteration; the second time round the number counts on."""
    clips = ToyClips()
    run(tmp_path, replace(SFT, iterations=1), models=replace(make_models(), clips=clips))
    lesson = clips.asked[-8:]
    assert [set(lesson[:3]), set(lesson[3:6])] == [set(PROMPTS.training)] * 2
    assert clips.asked == lesson * 2, "prepared before the first iteration, then taken"


def test_an_unreadable_clip_is_left_out_and_counted(tmp_path: Path) -> None:
    models = replace(make_models(), clips=ToyClips(unreadable=frozenset({"two"})))
    run(tmp_path, replace(SFT, iterations=1), models=models)
    row = logged(tmp_path)[0]
    unreadable = row["clips/unreadable"]
    assert 2 <= unreadable <= 3
    assert row["clips/used"] == SFT.groups * SFT.group_size - unreadable
    assert f"{unreadable:.0f} unreadable" in (tmp_path / "train.log").read_text()


def test_not_one_clip(tmp_path: Path) -> None:
    models = replace(make_models(), clips=ToyClips(unreadable=frozenset(PROMPTS.training)))
    with pytest.raises(UserError, match="2 iterations in a row changed nothing: not one clip could be read"):
        run(tmp_path, replace(SFT, iterations=9, max_skipped=2), models=models)


def test_clips_must_be_brought(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs clips"):
        run(tmp_path, SFT)
