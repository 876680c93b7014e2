"""Φ_g: the stitched model against Φ itself, its gradients, its files, and its training's exact resume."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.latent_geometry.samples import DEBUG_CONNECTOR, debug_clips
from vggrpo.latent_geometry.foundation.any4d import Any4D
from vggrpo.latent_geometry.model import LatentGeometryConfig, LatentGeometryModel, fingerprint
from vggrpo.latent_geometry.stitching import LayerFit
from vggrpo.latent_geometry.train import AlignmentData, ClipPick, LgmTraining, disturbed, read_lesson, train_lgm
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.training import LoopConfig, Step
from vggrpo.types import Latents, SceneGeometry

LATENTS = Latents(tensor=torch.randn(1, 2, 2, 4, 4, generator=torch.Generator().manual_seed(5)))
TRAINING = LgmTraining(
    connector=DEBUG_CONNECTOR,
    loop=LoopConfig(steps=4, learning_rate=1e-3, warmup_steps=2, checkpoint_every=2),
    lora_rank=4,
    lora_alpha=8,
    search_clips=2,
    test_clips=1,
    dense_frames=2,
    bfloat16=False,
)


def stitched(foundation: Any4D, *, block: int = 1) -> LatentGeometryModel:
    generator = torch.Generator().manual_seed(7)
    dim = foundation.token_dim
    fit = LayerFit(
        block=block,
        error=0.1,
        weight=0.1 * torch.randn(dim, DEBUG_CONNECTOR.patch_features, generator=generator),
        bias=torch.randn(dim, generator=generator),
        prefix=torch.randn(1, dim, generator=generator),
    )
    return LatentGeometryModel.stitched(foundation, fit, connector=DEBUG_CONNECTOR, rank=4, alpha=8).eval()


def assert_same_geometry(first: SceneGeometry, second: SceneGeometry) -> None:
    for name in first.__dataclass_fields__:
        assert torch.equal(getattr(first, name), getattr(second, name)), name


@pytest.mark.parametrize("block", [1, 2])
@torch.no_grad()
def test_tail_is_the_foundation_model_itself(debug_model: Any4D, block: int) -> None:
    """Fresh LoRA changes nothing: Φ fed with the connector's tokens at the cut gives the same geometry, bit for bit."""
    model = stitched(debug_model, block=block)
    patches = model.connector(LATENTS.tensor).flatten(2, 3) + debug_model.position_embedding((2, 2))
    prefix = model.prefix_tokens.expand(1, 5, 1, -1)
    features = debug_model.finish_encoder(torch.cat([prefix, patches], dim=2), start=block)
    assert_same_geometry(model(LATENTS), debug_model.decode(features, grid=(2, 2)))


def test_one_geometry_for_every_video_frame(debug_model: Any4D) -> None:
    scene = stitched(debug_model)(LATENTS)
    assert scene.depth.shape == (1, 5, 32, 32)


def test_gradients_reach_the_latents_and_only_what_is_trained(debug_model: Any4D) -> None:
    model = stitched(debug_model)
    latents = Latents(tensor=LATENTS.tensor.clone().requires_grad_())
    scene = model(latents)
    (scene.points.square().sum() + scene.camera_from_world.sum() + scene.scene_flow.square().sum()).backward()
    assert latents.tensor.grad is not None
    assert latents.tensor.grad.isfinite().all()
    assert (latents.tensor.grad.abs().flatten(1).sum(1) > 0).all()
    trained = set(model.trainable_state())
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} <= trained
    assert all(name.startswith(("connector.", "prefix_tokens")) or "lora_" in name for name in trained)
    assert not any("encoder.model.blocks.0." in name for name in trained)
    assert any("encoder.model.blocks.1." in name for name in trained)
    assert any("info_sharing.self_attention_blocks.0." in name for name in trained)


@torch.no_grad()
def test_the_given_foundation_is_left_alone(debug_model: Any4D) -> None:
    before = fingerprint(debug_model)
    model = stitched(debug_model)
    for tensor in model.trainable_state().values():
        tensor.add_(1.0)
    assert fingerprint(debug_model) == before
    assert all(parameter.requires_grad for parameter in debug_model.parameters())


@torch.no_grad()
def test_merged_lora_gives_the_same_geometry(debug_model: Any4D) -> None:
    model = stitched(debug_model)
    for name, tensor in model.trainable_state().items():
        if "lora_B" in name:
            tensor.normal_(std=0.05)
    adapted = model(LATENTS)
    model.merge_lora()
    torch.testing.assert_close(model(LATENTS).points, adapted.points, rtol=1e-4, atol=1e-4)


def test_cuts_outside_the_encoder_are_refused(debug_model: Any4D) -> None:
    config = LatentGeometryConfig(block=3, connector=DEBUG_CONNECTOR)
    with pytest.raises(ValueError, match=r"1 … 2"):
        LatentGeometryModel(debug_model, config)


@torch.no_grad()
def test_save_and_load_keep_the_geometry(debug_model: Any4D, tmp_path: Path) -> None:
    model = stitched(debug_model)
    for name, tensor in model.trainable_state().items():
        if "lora_" in name:
            tensor.copy_(torch.randn_like(tensor).bfloat16())
    model.save(tmp_path)
    loaded = LatentGeometryModel.load(tmp_path, foundation=debug_model)
    assert loaded.config == model.config
    assert_same_geometry(loaded(LATENTS), model(LATENTS))


def test_files_that_do_not_fit_are_named(debug_model: Any4D, tmp_path: Path) -> None:
    stitched(debug_model).save(tmp_path)
    other = Any4D(debug_model.config)
    with pytest.raises(UserError, match="another geometry model"):
        LatentGeometryModel.load(tmp_path, foundation=other)
    weights = tmp_path / "latent_geometry.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    with pytest.raises(UserError, match=r"latent_geometry\.safetensors"):
        LatentGeometryModel.load(tmp_path, foundation=debug_model)
    weights.unlink()
    with pytest.raises(UserError, match=r"latent_geometry\.safetensors"):
        LatentGeometryModel.load(tmp_path, foundation=debug_model)
    weights.write_bytes(content)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"lora_rank": 4', '"lora_rank": 5'))
    with pytest.raises(UserError, match="lora_A"):
        LatentGeometryModel.load(tmp_path, foundation=debug_model)
    config.write_text("[]")
    with pytest.raises(UserError, match=r"config\.json"):
        LatentGeometryModel.load(tmp_path, foundation=debug_model)


def data() -> AlignmentData:
    clips = debug_clips(7)
    return AlignmentData(world=clips[:4], generated=clips[4:])


def test_resumed_training_equals_uninterrupted_training(debug_model: Any4D, tmp_path: Path) -> None:
    """2 + 2 steps, bit for bit 4 steps: the second half starts from the checkpoint of the first."""
    straight, halved = tmp_path / "straight", tmp_path / "halved"
    train_lgm(debug_model, data(), training=TRAINING, out=straight)
    calls = {"count": 0}
    original = AlignmentData.draw

    def draw(self: AlignmentData, step: Step, *, generated_share: float) -> ClipPick:
        calls["count"] += 1
        if calls["count"] > 2:
            raise KeyboardInterrupt
        return original(self, step, generated_share=generated_share)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AlignmentData, "draw", draw)
        with pytest.raises(KeyboardInterrupt):
            train_lgm(debug_model, data(), training=TRAINING, out=halved)
    result = train_lgm(debug_model, data(), training=TRAINING, out=halved, resume=True)
    assert result.finished
    one = load_file(straight / "model" / "latent_geometry.safetensors")
    two = load_file(halved / "model" / "latent_geometry.safetensors")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def test_training_logs_every_term_and_lowers_the_loss(debug_model: Any4D, tmp_path: Path) -> None:
    loop = LoopConfig(steps=30, learning_rate=1e-2, warmup_steps=2, checkpoint_every=100)
    clip = debug_clips(1)
    result = train_lgm(
        debug_model,
        AlignmentData(world=clip * 4),
        training=replace(TRAINING, loop=loop, dense_frames=5),
        out=tmp_path,
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"align/camera", "align/depth", "align/points", "align/flow", "loss", "grad_norm"} <= lines[0].keys()
    assert result.last_metrics["loss"] < 0.85 * lines[0]["loss"]
    assert (tmp_path / "stitching.json").is_file()


def test_training_without_clips_says_so(debug_model: Any4D, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no clips"):
        train_lgm(debug_model, AlignmentData(world=[]), training=TRAINING, out=tmp_path)


def test_search_clips_are_never_fitted_and_tested_at_once() -> None:
    clips = data().for_search(fitted=2, tested=1)
    fitted, tested = list(clips.fit), list(clips.test)
    assert (len(fitted), len(tested)) == (4, 2)
    assert not {id(clip) for clip in fitted} & {id(clip) for clip in tested}


def test_latents_are_disturbed_evenly_up_to_the_stated_noise(debug_model: Any4D) -> None:
    """σ ~ U(0, most): over many steps its mean is most / 2 and nothing lies above; Φ's reading stays the clean one."""
    lesson = read_lesson(debug_model, debug_clips(1)[0], frames=torch.tensor([0]))
    wide = replace(lesson, latents=Latents(tensor=torch.zeros(1, 16, 5, 16, 16)))
    steps = [Step.of(index, TRAINING.loop) for index in range(400)]
    strengths = torch.stack([disturbed(wide, step=step, most=0.4).latents.tensor.std() for step in steps])
    assert strengths.mean() == pytest.approx(0.2, abs=0.02)
    assert strengths.max() < 0.41
    assert strengths.std() == pytest.approx(0.4 / 12**0.5, abs=0.015)
    once = disturbed(lesson, step=Step.of(3, TRAINING.loop), most=0.4)
    again = disturbed(lesson, step=Step.of(3, TRAINING.loop), most=0.4)
    assert torch.equal(once.latents.tensor, again.latents.tensor)
    assert once.theirs is lesson.theirs
    assert disturbed(lesson, step=steps[0], most=0.0) is lesson
