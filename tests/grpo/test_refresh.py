"""``--refresh-lgm`` on the debug preset's real Φ_g and Φ: the judge follows, and a resumed run is the same run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.grpo.toy import CONFIG, PROMPTS, make_models
from vggrpo.generation.models import Models, load_models
from vggrpo.generation.tuning import grpo_models, load_grpo_models, unmerge_lora
from vggrpo.grpo.models import GrpoModels
from vggrpo.grpo.processes import Processes
from vggrpo.grpo.prompts import PromptSets
from vggrpo.grpo.refresh import Refresher, alignment_error, refresh
from vggrpo.grpo.trainer import train
from vggrpo.latent_geometry.stitching import AlignedClip
from vggrpo.presets import get_preset
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents

CAPTIONS = PromptSets(
    training=("a red sphere on a grey tiled floor",), evaluation=("a blue cube on a teal tiled floor",)
)
REFRESHING = replace(CONFIG, iterations=2, groups=1, group_size=2, refresh_lgm=1, refresh_steps=2, max_skipped=99)


def debug_models() -> GrpoModels:
    return grpo_models(get_preset("tiny-debug"), load_models(get_preset("tiny-debug")))


def clips(models: Models, count: int) -> list[AlignedClip]:
    generator = torch.Generator().manual_seed(3)
    made = []
    for _ in range(count):
        latents = Latents(tensor=torch.randn(1, 16, 3, 8, 8, generator=generator))
        with torch.no_grad():
            video = models.vae.decode_normalised(latents)
        made.append(AlignedClip(latents=latents, images=(video.clamp(-1, 1).transpose(1, 2) + 1) / 2))
    return made


def test_a_refresh_brings_the_judge_nearer_to_the_geometry_model() -> None:
    loaded = load_models(get_preset("tiny-debug"))
    judge = grpo_models(get_preset("tiny-debug"), loaded).refreshable
    assert judge is not None
    training = clips(loaded, 2)
    phi = {name: values.clone() for name, values in loaded.geometry.state_dict().items()}
    result = refresh(judge, training, held_out=training, steps=12, learning_rate=3e-3, seed=(0, 1))
    assert result.after < 0.9 * result.before
    assert alignment_error(judge, training) == result.after
    assert all(torch.equal(phi[name], values) for name, values in loaded.geometry.state_dict().items())
    assert not any(parameter.requires_grad for parameter in judge.latent_geometry.parameters())


def test_a_refreshing_run_resumes_to_the_same_judge(tmp_path: Path) -> None:
    train(REFRESHING, debug_models(), prompts=CAPTIONS, out=tmp_path / "straight")
    train(replace(REFRESHING, iterations=1), debug_models(), prompts=CAPTIONS, out=tmp_path / "parts")
    train(REFRESHING, debug_models(), prompts=CAPTIONS, out=tmp_path / "parts", resume=True)
    left, right = (
        load_file(tmp_path / name / "checkpoints" / "step-000002" / "state.safetensors")
        for name in ("straight", "parts")
    )
    judge = [name for name in left if name.startswith("latent_geometry/")]
    assert "latent_geometry/prefix_tokens" in judge
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    rows = [json.loads(line) for line in (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["refresh/alignment_error_before"] > 0 < row["refresh/alignment_error_after"] for row in rows)


def test_merged_weights_come_apart_again() -> None:
    """What the trainer does to a Φ_g that was loaded for reading: its LoRA takes effect and gradients again."""
    merged = load_models(get_preset("tiny-debug")).latent_geometry
    latents = Latents(tensor=torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    lora = [p for name, p in merged.named_parameters() if ".lora_B" in name]
    for parameter in lora:
        parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    before = merged(latents).depth
    merged.merge_lora()
    unmerge_lora(merged)
    torch.testing.assert_close(merged(latents).depth, before, rtol=1e-3, atol=1e-4)
    for parameter in lora:
        parameter.data.zero_()
    assert not torch.allclose(merged(latents).depth, before, rtol=1e-3, atol=1e-4)


def test_a_reward_without_a_latent_geometry_model_cannot_be_refreshed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not use one"):
        train(replace(CONFIG, refresh_lgm=1), make_models(), prompts=PROMPTS, out=tmp_path)
    with pytest.raises(UserError, match="--reward-space rgb"):
        load_grpo_models(replace(CONFIG, refresh_lgm=1, reward_space="rgb"))


def test_without_refreshes_the_judge_is_no_part_of_the_checkpoint(tmp_path: Path) -> None:
    processes = Processes.open(device=torch.device("cpu"), out=tmp_path)
    refresher = Refresher(config=CONFIG, models=debug_models(), prompts=CAPTIONS, processes=processes)
    assert refresher.parameters() == {}
    assert len(replace(refresher, config=REFRESHING).parameters()) > 3
