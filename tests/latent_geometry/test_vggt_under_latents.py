"""Φ_g on VGGT: five prefix tokens, cut, search, training and rewards, and the pixels of VAE and geometry model."""

from pathlib import Path

import pytest
import torch
from torch import nn

from vggrpo.latent_geometry.connector import Connector, ConnectorConfig
from vggrpo.latent_geometry.foundation.any4d import Any4D
from vggrpo.latent_geometry.foundation.base import GeometryModel
from vggrpo.latent_geometry.foundation.registry import build_geometry
from vggrpo.latent_geometry.foundation.vggt import VGGT
from vggrpo.latent_geometry.foundation.vggt_config import VGGTConfig
from vggrpo.latent_geometry.model import LatentGeometryConfig, LatentGeometryModel, fingerprint
from vggrpo.latent_geometry.pixel_grid import connector_stride, geometry_size, resize_for_geometry
from vggrpo.latent_geometry.stitching import AlignedClip, search_stitching_layer
from vggrpo.latent_geometry.train import AlignmentData, LgmTraining, train_lgm
from vggrpo.rewards.geometry_consistency import geometry_consistency
from vggrpo.rewards.motion_smoothness import motion_smoothness
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.training import LoopConfig
from vggrpo.types import Latents, SceneGeometry

# Patches of 14 pixels as in the released models: the geometry model sees 7/8 of the VAE's pixels.
PATCH_14 = VGGTConfig(
    patch_size=14,
    position_grid=5,
    encoder_dim=32,
    encoder_depth=2,
    encoder_heads=2,
    pairs=2,
    sharing_heads=2,
    taps=(0, 0, 1, 1),
    camera_depth=1,
    camera_heads=2,
    dpt_features=8,
    dpt_channels=(8, 8, 8, 8),
)
VIDEO_SIZE = (32, 48)
CONNECTOR = ConnectorConfig.for_vae(latent_channels=2, vae_compression=8, token_dim=32)


@pytest.fixture
def vggt() -> VGGT:
    torch.manual_seed(3)
    model = VGGT(PATCH_14).eval()
    model.start_from_scratch()
    return model


def clips(count: int) -> list[AlignedClip]:
    """Latents of an 8x VAE for 5 frames of 32 x 48 pixels, and the frames as VGGT sees them."""
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(count, 1, 5, 3, *VIDEO_SIZE, generator=generator)
    return [
        AlignedClip(
            latents=Latents(tensor=torch.randn(1, 2, 2, 4, 6, generator=generator)),
            images=resize_for_geometry(one, patch_size=14),
        )
        for one in video
    ]


def latent_model(foundation: GeometryModel, *, block: int = 1, copy: bool = True) -> LatentGeometryModel:
    torch.manual_seed(1)
    config = LatentGeometryConfig(block=block, connector=CONNECTOR, lora_rank=4)
    return LatentGeometryModel(foundation, config, copy_foundation=copy).eval()


def assert_same_geometry(first: SceneGeometry, second: SceneGeometry) -> None:
    for name in first.__dataclass_fields__:
        assert torch.equal(getattr(first, name), getattr(second, name)), name


@pytest.mark.parametrize("block", [1, 2])
@torch.no_grad()
def test_tail_behind_the_cut_is_vggt_itself(vggt: VGGT, block: int) -> None:
    """Connector tokens with VGGT's positions behind its class token and four registers, bit for bit."""
    model = latent_model(vggt, block=block)
    model.prefix_tokens.normal_()
    latents = clips(1)[0].latents
    patches = model.connector(latents.tensor).flatten(2, 3) + vggt.position_embedding((2, 3))
    tokens = torch.cat([model.prefix_tokens.expand(1, 5, 5, -1), patches], dim=2)
    expected = vggt.decode(vggt.finish_encoder(tokens, start=block), grid=(2, 3))
    assert_same_geometry(model(latents), expected)
    assert expected.depth.shape == (1, 5, 28, 42)


def test_search_training_and_rewards_take_vggt(vggt: VGGT, tmp_path: Path) -> None:
    pairs = clips(4)
    fits = search_stitching_layer(vggt, CONNECTOR, fit=pairs[:3], test=pairs[3:])
    assert sorted(fit.block for fit in fits) == [1, 2]
    assert all(fit.prefix.shape == (5, 32) for fit in fits)
    loop = LoopConfig(steps=3, learning_rate=1e-2, warmup_steps=1, checkpoint_every=10)
    training = LgmTraining(
        connector=CONNECTOR, loop=loop, lora_rank=4, search_clips=2, test_clips=1, dense_frames=2, bfloat16=False
    )
    result = train_lgm(vggt, AlignmentData(world=pairs), training=training, out=tmp_path)
    assert result.finished
    assert result.last_metrics["align/flow"] == 0  # VGGT teaches none
    trained = LatentGeometryModel.load(tmp_path / "model", foundation=vggt)
    with torch.no_grad():
        scene = trained(pairs[0].latents)
    assert not scene.flow_valid.any()
    for reward in (motion_smoothness, geometry_consistency):
        assert reward(scene).value.shape == (1,)


def test_lora_adapts_the_blocks_behind_the_cut_and_the_alternating_ones(vggt: VGGT) -> None:
    model = latent_model(vggt, block=1)
    latents = clips(1)[0].latents
    scene = model(latents)
    (scene.depth.sum() + scene.camera_from_world.square().sum()).backward()
    adapted = {name for name in model.trainable_state() if "lora_A" in name}
    assert any("aggregator.patch_embed.blocks.1." in name for name in adapted)
    assert any("aggregator.frame_blocks.0." in name for name in adapted)
    assert any("aggregator.global_blocks.1." in name for name in adapted)
    assert not any("blocks.0." in name for name in adapted if "patch_embed" in name)
    assert not any("_head." in name for name in adapted)


def test_a_taken_over_foundation_is_not_copied(vggt: VGGT) -> None:
    expected = latent_model(vggt)(clips(1)[0].latents)
    weight = vggt.aggregator.global_blocks[0].attn.qkv.weight
    model = latent_model(vggt, copy=False)
    assert model.foundation.get_submodule("aggregator.global_blocks.0.attn.qkv.base_layer").weight is weight
    assert_same_geometry(model(clips(1)[0].latents), expected)
    with pytest.raises(RuntimeError, match="reads latents, not images"):
        vggt.geometry(torch.rand(1, 2, 3, 28, 42))


@pytest.mark.parametrize("name", ["any4d", "vggt"])
def test_what_the_connector_replaces_is_not_held(name: str) -> None:
    foundation = build_geometry(name, random_seed=0, size="debug")
    connector = ConnectorConfig(latent_channels=2, token_dim=foundation.token_dim)
    model = LatentGeometryModel(foundation, LatentGeometryConfig(block=2, connector=connector, lora_rank=2))
    held = sum(tensor.numel() for key, tensor in model.named_parameters() if "lora_" not in key)
    assert isinstance(foundation, nn.Module)
    given = {key: tensor.numel() for key, tensor in foundation.named_parameters()}
    replaced = [key for key in given if "patch_embed.proj." in key or ".blocks.0." in key or ".blocks.1." in key]
    expected = sum(given.values()) - sum(given[key] for key in replaced if "self_attention" not in key)
    own = sum(tensor.numel() for tensor in (*model.connector.parameters(), model.prefix_tokens))
    assert held == expected + own
    assert all(tensor.numel() for tensor in foundation.parameters())


@pytest.mark.parametrize("name", ["any4d", "vggt"])
@torch.no_grad()
def test_precision_of_foundation_and_latent_model(name: str) -> None:
    """Φ_g knows its Φ in bfloat16 and in float32, and runs on both."""
    foundation = build_geometry(name, random_seed=0, size="debug")
    before = fingerprint(foundation)
    connector = ConnectorConfig(latent_channels=2, token_dim=foundation.token_dim)
    latents = Latents(tensor=torch.randn(1, 2, 2, 4, 4, generator=torch.Generator().manual_seed(0)))
    torch.manual_seed(0)
    config = LatentGeometryConfig(block=1, connector=connector, lora_rank=2)
    precise = LatentGeometryModel(foundation, config).eval()(latents)
    foundation.to_bfloat16()
    assert fingerprint(foundation) == before
    torch.manual_seed(0)
    half = LatentGeometryModel(foundation, config).eval()(latents)
    assert half.depth.dtype == torch.float32
    torch.testing.assert_close(half.depth, precise.depth, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("compression", [8, 16])
def test_both_vaes_give_the_token_grid_of_the_geometry_model(compression: int) -> None:
    """The 8/7 rule: latents behind the connector and images behind the patches have one grid."""
    height, width = 96, 160
    config = ConnectorConfig.for_vae(latent_channels=3, vae_compression=compression, token_dim=4)
    tokens = Connector(config)(torch.randn(1, 3, 2, height // compression, width // compression))
    for patch in (14, 16):
        rows, columns = geometry_size(height, width, patch_size=patch)
        assert tokens.shape[2:4] == (rows // patch, columns // patch) == (6, 10)
        assert rows % patch == columns % patch == 0
    rows, columns = geometry_size(height, width, patch_size=14)
    assert (rows * 8, columns * 8) == (height * 7, width * 7)


def test_released_sizes_of_video_and_geometry() -> None:
    assert geometry_size(480, 832, patch_size=14) == (420, 728)
    assert geometry_size(240, 416, patch_size=14) == (210, 364)
    assert geometry_size(704, 1280, patch_size=14) == (616, 1120)
    assert connector_stride(8) == 2
    assert connector_stride(16) == 1


def test_pixels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"100 x 160 pixels .* multiples of 16"):
        geometry_size(100, 160, patch_size=14)
    for compression in (0, 5, 32):
        with pytest.raises(UserError, match=f"{compression}x compression"):
            connector_stride(compression)


def test_images_are_resized_without_aliasing_and_keep_their_place() -> None:
    """A ramp stays a ramp over the image's own coordinates; patches of 16 change nothing."""
    across = (torch.arange(64) + 0.5) / 64
    images = across.expand(1, 2, 3, 32, 64)
    resized = resize_for_geometry(images, patch_size=14)
    assert resized.shape == (1, 2, 3, 28, 56)
    expected = (torch.arange(56) + 0.5) / 56
    # The triangle filter leaves up to a sixteenth of a pixel.
    torch.testing.assert_close(resized[0, 0, 0, 0, 2:-2], expected[2:-2], rtol=0, atol=1e-3)
    assert resize_for_geometry(images, patch_size=16) is images
    checkers = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(1, 1, 3, 64, 64)
    assert (resize_for_geometry(checkers, patch_size=14) - 0.5).abs().max() < 0.5


@pytest.mark.parametrize("name", ["any4d", "vggt"])
def test_dense_heads_in_chunks_give_the_same_geometry(name: str) -> None:
    model = build_geometry(name, random_seed=0, size="debug")
    images = torch.rand(2, 5, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    whole = model.geometry(images)
    calls: list[int] = []
    for key, module in model.named_modules() if isinstance(model, nn.Module) else ():
        if key.endswith(("dpt_regressor_head", "depth_head")):
            module.register_forward_hook(lambda _module, _inputs, output: calls.append(output.shape[0]))
    for chunk in (1, 3):
        calls.clear()
        model.dense_chunk = chunk
        part = model.geometry(images)
        assert set(calls) == {chunk, 10 % chunk or chunk}
        for field in whole.__dataclass_fields__:
            torch.testing.assert_close(getattr(part, field), getattr(whole, field), rtol=0, atol=1e-5, msg=field)


class SavedNumbers:
    """Counts the numbers that a forward pass keeps for its backward pass."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        self.count += tensor.numel()
        return tensor


@pytest.mark.parametrize("name", ["any4d", "vggt"])
def test_recomputed_blocks_give_the_same_gradients(name: str) -> None:
    """Blocks and dense heads that run again in the backward pass: equal outputs and gradients, fewer saved tensors."""
    torch.manual_seed(0)
    model = build_geometry(name, random_seed=0, size="debug")
    gradients, saved = [], []
    for enabled in (False, True):
        model.checkpoint_blocks(enabled=enabled)
        images = torch.rand(1, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
        kept = SavedNumbers()
        with torch.autograd.graph.saved_tensors_hooks(kept.add, lambda tensor: tensor):
            scene = model.geometry(images)
            total = scene.points.square().sum() + scene.camera_from_world.square().sum()
        total.backward()
        gradients.append(images.grad)
        saved.append(kept.count)
    torch.testing.assert_close(gradients[1], gradients[0])
    assert saved[1] < 0.6 * saved[0]


def test_importing_the_models_leaves_matrix_precision_alone() -> None:
    """Importing the official Any4D switches TF32 on for the whole process; ours must not."""
    assert isinstance(build_geometry("any4d", random_seed=0, size="debug"), Any4D)
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32
