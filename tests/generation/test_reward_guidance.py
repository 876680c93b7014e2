"""Reward guidance from a request to the manifest. Oracles: the unguided request, judging by hand, the parts by hand."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.rewards.analytic import displace_frame, make_scene
from vggrpo.generation import GenerateRequest, Progress, RewardGuidance, Studio
from vggrpo.generation import studio as studio_module
from vggrpo.generation.batch import denoise_batch
from vggrpo.generation.guidance import guiding_reward
from vggrpo.latent_geometry.model import LatentGeometryModel
from vggrpo.policy.guidance import Reward
from vggrpo.rewards import judge, motion_smoothness
from vggrpo.runtime.errors import Cancelled, UserError
from vggrpo.types import Latents

PROMPT = "a red sphere on a grey tiled floor, the camera orbits left"
PLAIN = GenerateRequest(prompt=PROMPT, preset="tiny-debug", seed=3, steps=4)
GUIDED = replace(PLAIN, reward_guidance=RewardGuidance(scale=1e4, every=1, max_share=0.5))


def by_motion(latent_geometry: LatentGeometryModel) -> Reward:
    """Random weights see no scene that geometry consistency could judge: motion smoothness alone steers here."""

    def reward(latents: Latents) -> Tensor:
        return motion_smoothness(latent_geometry(latents)).value

    return reward


@pytest.fixture
def steered_by_motion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio_module, "guiding_reward", by_motion)


def rewards_of(studio: Studio, request: GenerateRequest) -> dict[str, float | None]:
    report = judge(studio.geometry_from_latents(studio.denoise(request)))
    motion, geometry = report.motion_smoothness.value.item(), report.geometry_consistency.value.item()
    values = {
        "reward": (motion + geometry) / 2,
        "motion_smoothness": motion,
        "geometry_consistency": geometry,
        "camera_path_length": report.guards.camera_path_length.item(),
    }
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


@pytest.mark.usefixtures("steered_by_motion")
def test_the_manifest_tells_the_rewards_without_and_with_guidance(studio: Studio, tmp_path: Path) -> None:
    run = studio.generate(GUIDED, tmp_path / "run")
    entry = json.loads((run.path / "manifest.json").read_text())["reward_guidance"]
    for side, request in (("before", PLAIN), ("after", GUIDED)):
        expected = rewards_of(studio, request)
        assert set(entry[side]) == set(expected)
        for name, value in expected.items():
            assert entry[side][name] == (None if value is None else pytest.approx(value, rel=1e-4)), name
    assert entry["after"]["motion_smoothness"] > entry["before"]["motion_smoothness"] + 0.02
    assert entry["after"]["motion_smoothness"] == run.rewards()["motion_smoothness"]["value"]
    assert (entry["scale"], entry["every"], entry["max_share"]) == (1e4, 1, 0.5)
    assert (entry["guided_steps"], entry["skipped_steps"]) == (4, 0)
    assert set(entry["seconds"]) == {"guided", "unguided"}


def test_scale_zero_gives_the_unguided_latents_to_the_bit(studio: Studio) -> None:
    off = replace(PLAIN, reward_guidance=RewardGuidance(scale=0.0))
    assert torch.equal(studio.denoise(off).tensor, studio.denoise(PLAIN).tensor)


def test_a_video_that_cannot_be_judged_is_left_alone_and_counted(studio: Studio, tmp_path: Path) -> None:
    """The debug preset's own reward: its geometry consistency is NaN, so nothing may steer."""
    guided = studio.denoise(GUIDED)
    assert guiding_reward(studio.models.latent_geometry)(guided).isnan().all()
    assert torch.equal(guided.tensor, studio.denoise(PLAIN).tensor)
    entry = studio.generate(GUIDED, tmp_path / "run").manifest()["reward_guidance"]
    assert isinstance(entry, dict)
    assert (entry["guided_steps"], entry["skipped_steps"]) == (0, 4)
    assert entry["before"] == entry["after"]
    assert entry["after"]["reward"] is None


def test_the_guiding_reward_is_the_mean_of_both_rewards() -> None:
    scene = displace_frame(make_scene(), 4, (0.1, 0.0, 0.0))
    report = judge(scene)
    value = guiding_reward(lambda _: scene)(Latents(tensor=torch.zeros(1, 1, 1, 1, 1)))
    expected = (report.motion_smoothness.value + report.geometry_consistency.value) / 2
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.usefixtures("steered_by_motion")
def test_many_at_once_are_guided_as_one_by_one(studio: Studio) -> None:
    requests = [replace(GUIDED, seed=seed) for seed in (3, 4)]
    together = denoise_batch(studio, requests).tensor
    for index, request in enumerate(requests):
        torch.testing.assert_close(together[index : index + 1], studio.denoise(request).tensor, rtol=1e-2, atol=1e-2)


@pytest.mark.usefixtures("steered_by_motion")
def test_progress_counts_both_samples_and_cancel_is_heard_in_the_second(studio: Studio, tmp_path: Path) -> None:
    seen: list[Progress] = []
    with pytest.raises(Cancelled):
        studio.generate(
            GUIDED, tmp_path / "run", on_progress=seen.append, should_stop=lambda: bool(seen) and seen[-1].done == 6
        )
    assert [(one.done, one.total) for one in seen if one.phase == "denoise"] == [(done, 8) for done in range(7)]
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_and_guidance_go_together(
    studio: Studio, make_lora: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studio_module, "guiding_reward", by_motion)
    adapter = make_lora()
    tuned = studio.denoise(replace(PLAIN, adapter=adapter)).tensor
    both = studio.denoise(replace(GUIDED, adapter=adapter)).tensor
    assert not torch.allclose(both, tuned, atol=1e-3)
    assert not torch.allclose(both, studio.denoise(GUIDED).tensor, atol=1e-3)
    assert not any("lora" in name for name, _ in studio.models.transformer.named_parameters())


def test_guidance_that_would_never_act_is_refused() -> None:
    with pytest.raises(UserError, match="every 5 steps never acts in 4 steps"):
        replace(PLAIN, reward_guidance=RewardGuidance(every=5))
    with pytest.raises(UserError, match="every 3 steps never acts in 2 steps"):
        GenerateRequest(prompt=PROMPT, preset="tiny-debug", reward_guidance=RewardGuidance(every=3))
