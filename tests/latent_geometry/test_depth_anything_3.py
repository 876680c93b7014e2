"""The adapter of Depth Anything 3 around a stand-in for its package: conventions, cuts, files, and its absence."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.latent_geometry.fake_depth_anything_3 import Network, fake_modules
from vggrpo.latent_geometry.connector import ConnectorConfig
from vggrpo.latent_geometry.foundation.base import GeometryModel
from vggrpo.latent_geometry.foundation.depth_anything_3 import DepthAnything3
from vggrpo.latent_geometry.foundation.registry import build_geometry, load_geometry
from vggrpo.latent_geometry.model import LatentGeometryConfig, LatentGeometryModel, fingerprint
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents

NAME = "depth-anything-3"
IMAGES = torch.rand(2, 4, 3, 28, 42, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in fake_modules().items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


def hub_file(network: nn.Module, folder: Path) -> Path:
    """As on the hub: the prefix of the api class, and each shared tensor once."""
    state = {f"model.{key}": tensor.contiguous().clone() for key, tensor in network.state_dict().items()}
    state = {key: tensor for key, tensor in state.items() if ".norms.1." not in key}
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.usefixtures("installed")
@torch.no_grad()
def test_output_is_the_packages_in_our_conventions(network: Network, tmp_path: Path) -> None:
    """Loaded from a hub file: depth as it is, cameras seen from camera 0, video in its own order."""
    path = hub_file(network, tmp_path)
    model = load_geometry(NAME, path)
    assert isinstance(model, GeometryModel)
    assert isinstance(model, DepthAnything3)
    normalised = (IMAGES - model.image_mean) / model.image_std
    expected = network(normalised, ref_view_strategy="first")
    scene = model.geometry(IMAGES)
    torch.testing.assert_close(scene.depth, expected["depth"])
    # Left alone, the package reorders the video.
    assert (network(normalised)["depth"] - expected["depth"]).abs().max() > 0.01
    torch.testing.assert_close(scene.confidence, expected["depth_conf"])
    assert torch.equal(scene.intrinsics, expected["intrinsics"])
    # The first camera is the world, so camera-from-world is the package's very matrix; inverted it would not be.
    torch.testing.assert_close(scene.camera_from_world[..., :3, :], expected["extrinsics"])
    assert not scene.flow_valid.any()
    assert scene.valid.all()
    folder = load_geometry(NAME, tmp_path)
    torch.testing.assert_close(folder.geometry(IMAGES).depth, scene.depth)


@pytest.mark.usefixtures("installed")
@torch.no_grad()
def test_replay_from_every_cut_is_exact() -> None:
    model = build_geometry(NAME, random_seed=0)
    assert (model.encoder_depth, model.token_dim, model.num_prefix_tokens, model.patch_size) == (2, 384, 1, 14)
    whole = model.geometry(IMAGES)
    activations = list(model.encoder_activations(IMAGES))
    for start in range(3):
        tokens = model.encode_tokens(IMAGES, upto=start)
        assert start == 0 or torch.equal(tokens, activations[start - 1])
        replayed = model.decode(model.finish_encoder(tokens, start=start), grid=model.grid_of(IMAGES))
        assert all(torch.equal(getattr(replayed, one), getattr(whole, one)) for one in whole.__dataclass_fields__)
    features = model.finish_encoder(model.encode_tokens(IMAGES, upto=0), start=0)
    part = model.decode_frames(features, grid=(2, 3), frames=torch.tensor([2]))
    assert torch.equal(part.scene.depth, whole.depth[:, [2]])
    assert torch.equal(part.camera_from_world, whole.camera_from_world)


@pytest.mark.usefixtures("installed")
def test_it_stands_under_latents() -> None:
    foundation = build_geometry(NAME, random_seed=0)
    connector = ConnectorConfig.for_vae(latent_channels=2, vae_compression=8, token_dim=384)
    config = LatentGeometryConfig(block=1, connector=connector, lora_rank=2)
    model = LatentGeometryModel(foundation, config).eval()
    model.geometry_model.checkpoint_blocks(enabled=True)
    latents = torch.randn(1, 2, 2, 4, 6, requires_grad=True)
    scene = model(Latents(tensor=latents))
    assert scene.depth.shape == (1, 5, 28, 42)
    scene.depth.sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0
    adapted = {name for name in model.trainable_state() if "lora_A" in name}
    assert any("frame_blocks.1." in name for name in adapted)
    assert any("network.backbone.pretrained.blocks.3." in name for name in adapted)
    assert not any("frame_blocks.0." in name or ".head." in name for name in adapted)
    with pytest.raises(RuntimeError, match="reads latents"):
        model.geometry_model.geometry(IMAGES)
    assert foundation.geometry(IMAGES).depth.shape == (2, 4, 28, 42)


@pytest.mark.usefixtures("installed")
@torch.no_grad()
def test_backbone_in_bfloat16_heads_in_float32() -> None:
    model = build_geometry(NAME, random_seed=0)
    precise, before = model.geometry(IMAGES), fingerprint(model)
    model.to_bfloat16()
    assert fingerprint(model) == before
    half = model.geometry(IMAGES)
    assert half.depth.dtype == torch.float32
    torch.testing.assert_close(half.depth, precise.depth, rtol=0.05, atol=0.05)


@pytest.mark.usefixtures("installed")
def test_weights_that_do_not_fit_are_named(network: Network, tmp_path: Path) -> None:
    path = hub_file(network, tmp_path)
    state = {f"model.{key}": tensor for key, tensor in network.state_dict().items() if ".norms.1." not in key}
    monocular = {key: tensor for key, tensor in state.items() if ".cam_dec." not in key}
    save_file(monocular, path)
    with pytest.raises(UserError, match=r"model\.safetensors: no weights of a Depth Anything 3 that gives cameras"):
        load_geometry(NAME, path)
    save_file({key: tensor for key, tensor in state.items() if "camera_token" not in key}, path)
    with pytest.raises(UserError, match=r"missing: backbone\.pretrained\.camera_token"):
        load_geometry(NAME, path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="truncated"):
        load_geometry(NAME, path)
    with pytest.raises(UserError, match="no weights of Depth Anything 3"):
        load_geometry(NAME, tmp_path.parent)


@pytest.mark.parametrize("missing", ["depth_anything_3", "depth_anything_3.cfg"])
def test_an_absent_package_is_one_clear_line(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match="needs its package") as error:
        build_geometry(NAME, random_seed=0)
    assert "pip install --no-deps depth-anything-3" in str(error.value)
    assert "choose any4d or vggt" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("installed")
def test_images_off_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 14"):
        build_geometry(NAME, random_seed=0).geometry(torch.rand(1, 2, 3, 30, 28))
