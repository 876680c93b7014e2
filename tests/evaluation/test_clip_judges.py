"""All judges together on world clips with known defects: each raises exactly the right error, and leaves the others.

Oracle: the world's exact depth stands in for the independent network. Its cameras are withheld (every one is given as
standing still), so whatever is said of cameras was read from the frames.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from vggrpo.evaluation.judges import FRECHET, MEASURES, NO_MOVE, NO_OBJECT_JUDGE, ClipJudges, Finding, measure_named
from vggrpo.evaluation.subjects import FrameReader
from vggrpo.latents import video_from_frames
from vggrpo.pretraining.data import select_frames
from vggrpo.runtime.errors import UserError
from vggrpo.types import SceneGeometry, WorldClip
from vggrpo.worlds import make_clip, render_clip, sample_scene

FRAMES = 8
SHORT = np.arange(FRAMES)


@dataclass(frozen=True)
class ExactDepth:
    """A geometry model that knows one clip's depth, and believes that every camera stands still."""

    clip: WorldClip
    patch_size: int = 16

    def geometry(self, images: Float[Tensor, "B N 3 H W"]) -> SceneGeometry:
        scene = self.clip.geometry.to_scene().map(lambda tensor: tensor[:, : images.shape[1]])
        still = torch.eye(4).expand_as(scene.camera_from_world)
        return replace(scene, camera_from_world=still, scene_flow=torch.zeros_like(scene.scene_flow))

    def encode_tokens(self, images: Float[Tensor, "B N 3 H W"], *, upto: int) -> Float[Tensor, "B N S C"]:
        assert upto == 0
        return torch.nn.functional.avg_pool2d(images.flatten(0, 1), 16).unflatten(0, images.shape[:2]).flatten(3).mT

    def finish_encoder(self, tokens: Float[Tensor, "B N S C"], *, start: int) -> Float[Tensor, "B N patches C"]:
        assert start == 0
        return tokens


def orbit_of_a_still_scene() -> int:
    return next(
        seed
        for seed in range(400, 500)
        if sample_scene(seed).camera.name == "orbit left"
        and len(sample_scene(seed).objects) > 1
        and not any(item.moves for item in sample_scene(seed).objects)
    )


SEED = orbit_of_a_still_scene()


def ask(clip: WorldClip, frames: np.ndarray | None = None) -> dict[str, Finding]:
    model = ExactDepth(clip)
    assert isinstance(model, FrameReader)
    judges = ClipJudges(geometry=model, objects=None, device=torch.device("cpu"))
    video = video_from_frames(torch.from_numpy(clip.rgb if frames is None else frames)[None])
    return {name: found[0] for name, found in judges.judge(video, prompts=[clip.caption]).items()}


@pytest.fixture(scope="module")
def clip() -> WorldClip:
    return select_frames(make_clip(SEED, jitter=False), SHORT)


@pytest.fixture(scope="module")
def clean(clip: WorldClip) -> dict[str, Finding]:
    return ask(clip)


def warp(frames: np.ndarray, index: int) -> np.ndarray:
    """One frame is bent by waves of two pixels both ways: no camera could see the scene so."""
    import cv2

    rows, columns = np.mgrid[: frames.shape[1], : frames.shape[2]].astype(np.float32)
    bent = frames.copy()
    moved = columns + 2 * np.sin(rows / 8), rows + 2 * np.sin(columns / 8 + 1)
    bent[index] = cv2.remap(frames[index], *moved, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return bent


def test_a_true_clip_has_next_to_no_error(clean: dict[str, Finding]) -> None:
    assert list(clean) == [measure.name for measure in MEASURES]
    assert clean["sampson"].value < 0.1
    assert clean["reprojection"].value < 0.015
    assert clean["reprojection"].details["compared"] > 0.5
    assert clean["smoothness"].value > 0.85
    assert clean["roughness_turn"].value < 0.4
    assert clean["dynamic_degree"].value < 0.005
    assert clean["camera_prompt"].value == 1.0


def test_a_shaking_camera_is_rough_and_nothing_else(clean: dict[str, Finding]) -> None:
    shaken = ask(select_frames(make_clip(SEED, jitter=True), SHORT))
    for name in ("roughness_travel", "roughness_turn"):
        assert shaken[name].value > 4.0 * clean[name].value
    assert shaken["smoothness"].value < clean["smoothness"].value - 0.1
    assert shaken["sampson"].value < 0.15
    assert shaken["reprojection"].value < 0.02
    assert shaken["dynamic_degree"].value < 0.01
    assert shaken["sharpness"].value == pytest.approx(clean["sharpness"].value, rel=0.1)


def test_a_warped_frame_breaks_the_epipolar_constraint_and_reprojection(
    clip: WorldClip, clean: dict[str, Finding]
) -> None:
    warped = ask(clip, warp(clip.rgb, FRAMES // 2))
    assert warped["sampson"].value > 2.0 * clean["sampson"].value
    assert warped["reprojection"].value > 1.5 * clean["reprojection"].value
    assert warped["sharpness"].value == pytest.approx(clean["sharpness"].value, rel=0.1)
    assert warped["camera_prompt"].value == 1.0


def test_a_warped_frame_leaves_the_length_of_the_path() -> None:
    """Of half of some orbits: waves of two pixels shake the fitted cameras, by an amount that does not grow with the
    path, and once in a while too much for cameras to be fitted at all."""
    changes = []
    for seed in (402, 411, 421, 426, 444):
        orbit = select_frames(make_clip(seed, jitter=False), SHORT)
        before, after = (ask(orbit, frames)["path_length"].value for frames in (None, warp(orbit.rgb, FRAMES // 2)))
        assert before > 0.2
        changes.append(abs(after / before - 1.0))
    assert np.nanmedian(changes) < 0.1


def test_an_object_that_changes_its_shape_breaks_reprojection_alone(clip: WorldClip, clean: dict[str, Finding]) -> None:
    """The first object is a cube and a ball by turns; everything else is as it was."""
    scene = sample_scene(SEED, jitter=False)
    first = scene.objects[0]
    other = "sphere" if first.words.shape != "sphere" else "cube"
    changed = replace(scene, objects=(replace(first, words=replace(first.words, shape=other)), *scene.objects[1:]))
    turns = clip.rgb.copy()
    turns[1::2] = render_clip(changed).rgb[:FRAMES][1::2]
    assert (turns != clip.rgb).any(axis=-1).mean() > 0.005
    found = ask(clip, turns)
    assert found["reprojection"].value > 1.3 * clean["reprojection"].value
    assert found["sampson"].value < clean["sampson"].value + 0.05
    assert found["smoothness"].value == pytest.approx(clean["smoothness"].value, abs=0.1)
    assert found["path_length"].value == pytest.approx(clean["path_length"].value, rel=0.1)
    assert found["sharpness"].value == pytest.approx(clean["sharpness"].value, rel=0.1)


def test_a_frozen_video_is_told_by_the_guards_alone(clip: WorldClip, clean: dict[str, Finding]) -> None:
    frozen = ask(clip, np.repeat(clip.rgb[:1], FRAMES, axis=0))
    assert frozen["path_length"].value < 0.02 < clean["path_length"].value
    assert frozen["sampson"].value < 1e-3
    assert frozen["smoothness"].value > 0.95
    assert frozen["dynamic_degree"].value == 0.0
    assert frozen["camera_prompt"].value == 0.0


def test_a_blurred_video_is_told_by_its_sharpness(clip: WorldClip, clean: dict[str, Finding]) -> None:
    import cv2

    blurred = ask(clip, np.stack([cv2.GaussianBlur(frame, (0, 0), 1.0) for frame in clip.rgb]))
    assert blurred["sharpness"].value < 0.6 * clean["sharpness"].value
    assert blurred["reprojection"].value < 1.1 * clean["reprojection"].value
    assert blurred["smoothness"].value == pytest.approx(clean["smoothness"].value, abs=0.1)


def test_what_cannot_be_judged_has_a_reason_and_no_number(clip: WorldClip) -> None:
    grey = ask(clip, np.full_like(clip.rgb, 128))
    assert "16 matches" in str(grey["sampson"].reason)
    assert grey["object_prompt"].reason == NO_OBJECT_JUDGE
    noise = np.random.default_rng(0).integers(0, 256, size=clip.rgb[:3].shape, dtype=np.uint8)
    found = ask(clip, noise)
    for name in ("reprojection", "smoothness", "path_length", "dynamic_degree", "camera_prompt"):
        assert math.isnan(found[name].value)
        assert "could be followed" in str(found[name].reason)
    few = ask(clip, clip.rgb[:2])
    assert "at least 3" in str(few["smoothness"].reason)
    silent = ask(replace(clip, caption="a quiet place"))
    assert silent["camera_prompt"].reason == NO_MOVE


def test_depth_nowhere_is_a_reason(clip: WorldClip) -> None:
    blind = replace(clip, geometry=replace(clip.geometry, valid=np.zeros_like(clip.geometry.valid)))
    assert "found depth in 0.0% of the pixels" in str(ask(blind)["reprojection"].reason)


def test_one_prompt_a_video(clip: WorldClip) -> None:
    judges = ClipJudges(geometry=ExactDepth(clip), objects=None, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="1 videos and 2 prompts"):
        judges.judge(video_from_frames(torch.from_numpy(clip.rgb)[None]), prompts=["a", "b"])


def test_objects_of_the_prompt_are_counted_by_their_judge(clip: WorldClip) -> None:
    """A judge that sees the exact masks finds every object that is large enough."""
    from vggrpo.evaluation.object_accuracy import true_visible_pixels
    from vggrpo.evaluation.object_judge import KINDS

    class ExactCounter:
        def visible_pixels(self, video: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N kinds"]:
            pixels = torch.zeros(len(video), len(KINDS))
            for kind, mask in true_visible_pixels(clip.object_id, seed=SEED).items():
                pixels[:, KINDS.index(kind)] = torch.from_numpy(mask[: len(video)].sum(axis=(1, 2)))
            return pixels

    judges = ClipJudges(geometry=ExactDepth(clip), objects=ExactCounter(), device=torch.device("cpu"))
    video = video_from_frames(torch.from_numpy(clip.rgb[:3])[None])
    seen, wrong = (
        judges.judge(video, prompts=[prompt])["object_prompt"][0]
        for prompt in (clip.caption, "a purple cone stands on the ground")
    )
    assert seen.value == 1.0
    assert seen.details["named"] == len(sample_scene(SEED).objects)
    assert wrong.value == 0.0


def test_features_are_one_vector_a_frame(clip: WorldClip) -> None:
    judges = ClipJudges(geometry=ExactDepth(clip), objects=None, device=torch.device("cpu"))
    video = video_from_frames(torch.from_numpy(np.stack([clip.rgb, clip.rgb[::-1]]).copy()))
    found = judges.features(video)
    assert found.shape == (2, FRAMES, 3)
    np.testing.assert_allclose(found[0, 0], clip.rgb[0].reshape(-1, 3).mean(axis=0) / 255.0, atol=1e-5)
    np.testing.assert_allclose(found[1], found[0, ::-1], atol=1e-9)


# --- Words and files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "finding",
    [
        Finding(value=0.25),
        Finding(value=1.0, details={"compared": 0.5, "matches": math.nan}),
        Finding(value=math.nan, reason="none"),
    ],
)
def test_findings_survive_a_file(finding: Finding) -> None:
    import json

    again = Finding.from_json(json.loads(json.dumps(finding.to_json(), allow_nan=False)))
    assert again.to_json() == finding.to_json()
    assert again.reason == finding.reason


def test_a_finding_is_a_number_or_a_reason() -> None:
    for value, reason in ((1.0, "because"), (math.nan, None)):
        with pytest.raises(ValueError, match="either a number or a reason"):
            Finding(value=value, reason=reason)
    with pytest.raises(ValueError, match="no finding"):
        Finding.from_json({"value": "large"})


def test_measures_are_found_by_name_and_misspelt_ones_suggested() -> None:
    assert measure_named("frechet") is FRECHET
    assert measure_named("sampson") is MEASURES[0]
    with pytest.raises(UserError, match="did you mean 'sharpness'"):
        measure_named("sharpnes")
    assert len({one.name for one in MEASURES}) == len(MEASURES)
