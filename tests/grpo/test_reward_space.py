"""Both routes from latents to rewards. Oracles: decoding, reading and judging by hand; a VAE that raises."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.rewards.analytic import make_scene, truck_path
from vggrpo.generation import Studio
from vggrpo.grpo.reward_space import GUARDS, LatentRewards, RewardSpace, RgbRewards
from vggrpo.rewards import judge, reward_names
from vggrpo.types import Latents, SceneGeometry


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio.load("tiny-debug")


@pytest.fixture(scope="module")
def latents(studio: Studio) -> Latents:
    generator = torch.Generator().manual_seed(5)
    return Latents(tensor=torch.randn(3, *studio.latent_shape, generator=generator))


@pytest.fixture
def spaces(studio: Studio) -> tuple[RewardSpace, RewardSpace]:
    latent = LatentRewards(latent_geometry=studio.models.latent_geometry)
    return latent, RgbRewards(decode=studio.vae.decode_normalised, geometry=studio.geometry_from_video)


def test_both_routes_give_the_same_names_and_shapes(spaces: tuple[RewardSpace, RewardSpace], latents: Latents) -> None:
    scores = [space.score(latents) for space in spaces]
    assert [space.name for space in spaces] == ["latent", "rgb"]
    for score in scores:
        assert tuple(score) == (*reward_names(), *GUARDS)
        assert {(value.shape, value.dtype, value.requires_grad) for value in score.values()} == {
            (torch.Size([3]), torch.float32, False)
        }
    assert any(not torch.equal(scores[0][name], scores[1][name]) for name in reward_names())


def by_hand(scene: SceneGeometry) -> dict[str, Tensor]:
    report = judge(scene)
    guards = report.guards
    return {
        "motion_smoothness": report.motion_smoothness.value,
        "geometry_consistency": report.geometry_consistency.value,
        "scene_smoothness": report.scene_smoothness.value,
        "camera_path_length": guards.camera_path_length,
        "dynamic_degree": guards.dynamic_degree,
        "moving_share": guards.moving_share,
    }


@torch.no_grad()
def test_rgb_is_decoding_then_reading_then_judging(studio: Studio, latents: Latents) -> None:
    """Through the VAE's own diffusers class: raw = z · std + mean, and Φ takes frames in [0, 1]."""
    config = studio.vae.model.config
    mean, std = (torch.tensor(numbers).view(1, -1, 1, 1, 1) for numbers in (config.latents_mean, config.latents_std))
    video = studio.vae.model.decode(latents.tensor * std + mean).sample
    expected = by_hand(studio.models.geometry.geometry((video.transpose(1, 2) + 1) / 2))
    space = RgbRewards(decode=studio.vae.decode_normalised, geometry=studio.geometry_from_video)
    torch.testing.assert_close(space.score(latents), expected, equal_nan=True)


@torch.no_grad()
def test_latent_is_reading_then_judging_and_never_decodes(
    studio: Studio, latents: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Tensor:
        raise AssertionError("the latent route used the VAE")

    for part in (studio.vae.model.decoder, studio.vae.model.encoder):
        monkeypatch.setattr(part, "forward", refuse)
    with pytest.raises(AssertionError, match="used the VAE"):
        studio.vae.decode_normalised(latents)
    expected = by_hand(studio.models.latent_geometry(latents))
    space = LatentRewards(latent_geometry=studio.models.latent_geometry)
    torch.testing.assert_close(space.score(latents), expected, equal_nan=True)


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_a_video_is_judged_alike_whatever_stands_beside_it(
    spaces: tuple[RewardSpace, RewardSpace], latents: Latents, micro_batch: int
) -> None:
    for space in spaces:
        parts = replace(space, micro_batch=micro_batch).score(latents)
        torch.testing.assert_close(parts, space.score(latents), rtol=1e-3, atol=1e-4, equal_nan=True)


def test_what_cannot_be_judged_stays_nan_and_harms_nobody() -> None:
    """Video 1 has no valid pixel: NaN in every reward and guard; video 0 keeps its exact scores."""
    good = make_scene(truck_path(5))
    blind = replace(good, valid=torch.zeros_like(good.valid))
    scene = SceneGeometry(
        **{name: torch.cat([getattr(good, name), getattr(blind, name)]) for name in SceneGeometry.__dataclass_fields__}
    )
    space = LatentRewards(latent_geometry=lambda _: scene)
    scores = space.score(Latents(tensor=torch.zeros(2, 1, 1, 1, 1)))
    for name, expected in by_hand(good).items():
        assert scores[name][0].item() == pytest.approx(expected[0].item(), abs=1e-6), name
        assert scores[name][1].isnan(), name


def test_no_graph_is_kept(studio: Studio, latents: Latents) -> None:
    wanted = Latents(tensor=latents.tensor.clone().requires_grad_())
    seen: list[bool] = []

    def read(given: Latents) -> SceneGeometry:
        scene = studio.models.latent_geometry(given)
        seen.append(scene.depth.requires_grad)
        return scene

    LatentRewards(latent_geometry=read).score(wanted)
    assert seen == [False]


def test_an_empty_micro_batch_is_refused(studio: Studio) -> None:
    with pytest.raises(ValueError, match="micro_batch is 0"):
        LatentRewards(latent_geometry=studio.models.latent_geometry, micro_batch=0)
