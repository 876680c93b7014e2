"""The alignment loss: zero for equal readings, one term for one difference, free of the scene's unit."""

from dataclasses import replace

import pytest
import torch

from tests.latent_geometry.samples import exact_scene
from vggrpo.latent_geometry.alignment_loss import AlignmentWeights, Reading, alignment_losses
from vggrpo.latent_geometry.foundation.base import DecodedFrames
from vggrpo.types import SceneGeometry

WEIGHTS = AlignmentWeights(intrinsics=1.0, camera_step=1.0)


def reading(scene: SceneGeometry) -> Reading:
    features = torch.arange(24, dtype=torch.float64).view(1, 3, 4, 2)
    return Reading(decoded=DecodedFrames(camera_from_world=scene.camera_from_world, scene=scene), features=features)


def losses(student: SceneGeometry, teacher: SceneGeometry) -> dict[str, float]:
    values = alignment_losses(reading(student), teacher=reading(teacher), weights=WEIGHTS)
    return {name: float(value) for name, value in values.items()}


def test_equal_readings_cost_nothing() -> None:
    assert set(losses(exact_scene(), exact_scene()).values()) == {0.0}


@pytest.mark.parametrize(
    ("field", "terms"),
    [
        ("depth", {"depth"}),
        ("points", {"points"}),
        ("scene_flow", {"flow"}),
        ("intrinsics", {"intrinsics"}),
        ("confidence", {"confidence"}),
    ],
)
def test_each_difference_shows_in_its_own_term(field: str, terms: set[str]) -> None:
    scene = exact_scene()
    values = losses(replace(scene, **{field: getattr(scene, field) + 0.5}), scene)
    raised = {name.removeprefix("align/") for name, value in values.items() if value > 1e-12} - {"loss"}
    assert raised == terms


def test_a_depth_off_by_a_constant_costs_that_constant_in_scene_scales() -> None:
    scene = exact_scene()
    logs = scene.depth[scene.valid].log()
    values = losses(replace(scene, depth=scene.depth + 0.3), scene)
    assert values["align/depth"] == pytest.approx(0.3 / float(logs.mean().exp()))


def test_pixels_without_geometry_do_not_count() -> None:
    scene = exact_scene()
    elsewhere = torch.where(scene.valid, scene.depth, scene.depth + 100)
    assert losses(replace(scene, depth=elsewhere), scene)["align/depth"] == 0


def test_one_turned_camera_shows_in_camera_and_step() -> None:
    scene = exact_scene()
    camera = scene.camera_from_world.clone()
    camera[0, 2, :3, 3] += 0.2
    values = losses(replace(scene, camera_from_world=camera), scene)
    assert values["align/camera"] > 0
    assert values["align/camera_step"] > 0
    assert values["align/points"] == 0


def test_terms_do_not_depend_on_the_unit_of_length() -> None:
    scene = exact_scene()
    other = replace(scene, depth=scene.depth * 1.1, points=scene.points + 0.1, scene_flow=scene.scene_flow * 0.5)
    before = losses(other, scene)
    after = losses(scaled(other, 7.0), scaled(scene, 7.0))
    assert after == pytest.approx(before)


def scaled(scene: SceneGeometry, factor: float) -> SceneGeometry:
    camera = scene.camera_from_world.clone()
    camera[..., :3, 3] *= factor
    return replace(
        scene,
        camera_from_world=camera,
        depth=scene.depth * factor,
        points=scene.points * factor,
        scene_flow=scene.scene_flow * factor,
    )


def test_total_is_the_weighted_sum() -> None:
    scene = exact_scene()
    other = replace(scene, depth=scene.depth * 1.2, confidence=scene.confidence * 2)
    values = losses(other, scene)
    expected = sum(getattr(WEIGHTS, name.removeprefix("align/")) * v for name, v in values.items() if name != "loss")
    assert values["loss"] == pytest.approx(expected)


def test_a_teacher_that_sees_nothing_gives_no_gradient_and_no_nan() -> None:
    scene = exact_scene()
    blind = replace(scene, valid=torch.zeros_like(scene.valid), flow_valid=torch.zeros_like(scene.valid))
    values = losses(replace(scene, depth=scene.depth + 1), blind)
    assert values["align/depth"] == 0
    assert values["loss"] == values["loss"]
