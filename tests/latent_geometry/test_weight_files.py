"""Weights from files: what fits is loaded exactly, and every mistake is one line that names it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vggrpo.latent_geometry.foundation.any4d import Any4D
from vggrpo.latent_geometry.foundation.any4d_checkpoint import ANY4D
from vggrpo.latent_geometry.foundation.any4d_config import DEBUG
from vggrpo.latent_geometry.foundation.model_folder import Architecture, load_weights
from vggrpo.latent_geometry.foundation.registry import (
    GEOMETRY_MODELS,
    build_geometry,
    geometry_info,
    load_geometry,
    save_geometry,
)
from vggrpo.latent_geometry.foundation.vggt import VGGT
from vggrpo.latent_geometry.foundation.vggt_checkpoint import VGGT_1B
from vggrpo.latent_geometry.foundation.vggt_config import VGGT_DEBUG
from vggrpo.latent_geometry.foundation.weight_files import identify, read_state, require_plausible
from vggrpo.runtime.errors import UserError

OWN_MODELS = ("any4d", "vggt")


def small(architecture: Architecture) -> Architecture:
    """The architecture as if the debug size were the released one, so that official files are small."""
    config = DEBUG if architecture is ANY4D else VGGT_DEBUG
    return Architecture(
        name=architecture.name,
        config=config,
        build=architecture.build,
        layout=architecture.layout,
        official_files=architecture.official_files,
    )


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.fixture
def any4d() -> Any4D:
    torch.manual_seed(3)
    return Any4D(DEBUG).eval()


@pytest.mark.parametrize("name", OWN_MODELS)
def test_a_saved_model_is_the_one_that_is_loaded(name: str, tmp_path: Path) -> None:
    model = build_geometry(name, random_seed=5, size="debug", dtype=torch.bfloat16)
    save_geometry(model, tmp_path)
    loaded = load_geometry(name, tmp_path)
    assert isinstance(loaded, nn.Module)
    assert not loaded.training
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor.float()), key
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in loaded.parameters())
    again = load_geometry(name, tmp_path, dtype=torch.bfloat16)
    for key, tensor in again.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key
        assert model.state_dict()[key].dtype == tensor.dtype, key


def test_the_other_models_folder_is_named(any4d: Any4D, tmp_path: Path) -> None:
    save_geometry(any4d, tmp_path)
    with pytest.raises(UserError, match="holds the geometry model 'any4d', not 'vggt'") as error:
        load_geometry("vggt", tmp_path)
    one_line(error)


def test_damaged_folders_are_named(any4d: Any4D, tmp_path: Path) -> None:
    save_geometry(any4d, tmp_path)
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is truncated") as error:
        load_geometry("any4d", tmp_path)
    one_line(error)
    weights.write_bytes(content)
    weights.rename(tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match="1 of 2 weight files"):
        load_geometry("any4d", tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="no weight file in"):
        load_geometry("any4d", tmp_path)
    for nonsense in ('{"colour": 1}', "[1]", "{"):
        (tmp_path / "config.json").write_text(nonsense)
        with pytest.raises(UserError, match=r"config\.json") as error:
            load_geometry("any4d", tmp_path)
        one_line(error)


@pytest.mark.parametrize("architecture", [ANY4D, VGGT_1B], ids=lambda one: one.name)
def test_official_files_and_folders_of_them_are_read(architecture: Architecture, tmp_path: Path) -> None:
    """As released: one file; for VGGT beside a config.json of the hub's own, with the track head in it."""
    torch.manual_seed(1)
    model = architecture.build(small(architecture).config)
    state = {**model.state_dict(), "track_head.tracker.fmap_norm.weight": torch.zeros(2)}
    if architecture is ANY4D:
        state = {"dense_head.0" + key.removeprefix("dpt_feature_head"): value for key, value in state.items()} | state
        del state["track_head.tracker.fmap_norm.weight"]
        path = tmp_path / "any4d_4v_combined.pth"
        torch.save({"model": {**model.state_dict(), "depth_encoder.conv_in.bias": torch.zeros(2)}}, path)
    else:
        path = tmp_path / "model.safetensors"
        save_file({key: value.contiguous() for key, value in state.items()}, path)
        (tmp_path / "config.json").write_text(json.dumps({"img_size": 518, "patch_size": 14, "embed_dim": 1024}))
    for source in (path, tmp_path):
        loaded = load_weights(source, small(architecture))
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())


def test_official_checkpoints_are_read_without_running_them(any4d: Any4D, tmp_path: Path) -> None:
    path = tmp_path / "any4d.pth"
    torch.save({"model": any4d.state_dict(), "epoch": 3}, path)
    content = path.read_bytes()
    assert read_state(path).keys() == any4d.state_dict().keys()
    torch.save({"model": nn.Linear(2, 2)}, path)
    with pytest.raises(UserError, match=r"holds more than tensors \(torch\.nn\.modules\.linear\.Linear\)") as error:
        read_state(path)
    one_line(error)
    torch.save({"model": [1, 2]}, path)
    with pytest.raises(UserError, match="no state dict"):
        read_state(path)
    for damaged in (b"no checkpoint", content[: len(content) // 2], b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="truncated or no checkpoint") as error:
            read_state(path)
        one_line(error)


def test_other_kinds_of_files_are_refused_unopened(tmp_path: Path) -> None:
    for name in ("weights.bin", "weights.pkl", "weights.ckpt"):
        (tmp_path / name).write_bytes(b"x" * 100)
        with pytest.raises(UserError, match=r"ending in \.safetensors, \.pth, \.pt") as error:
            load_geometry("any4d", tmp_path / name)
        one_line(error)
    with pytest.raises(UserError, match="no weight file at"):
        load_geometry("any4d", tmp_path / "absent.pth")
    with pytest.raises(UserError, match=r"any4d_4v_combined\.pth"):
        load_geometry("any4d", tmp_path)
    pointer = tmp_path / "any4d.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 2454\n")
    with pytest.raises(UserError, match="git-lfs pointer"):
        load_geometry("any4d", pointer)


def test_a_file_that_is_too_small_or_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "any4d.pth"
    path.write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match=r"0\.0 MB, but the weights of Any4D take at least 1038 MB"):
        load_geometry("any4d", path)
    with pytest.raises(UserError, match="too many for the weights of Any4D"):
        require_plausible(path, numbers=10, title="Any4D")


@pytest.mark.parametrize(
    ("keys", "title"),
    [
        (("aggregator.camera_token",), "VGGT"),
        (("model.backbone.pretrained.cls_token",), "Depth Anything 3"),
        (("connector.conv.weight", "foundation.info_sharing.lora_A.weight"), "a latent geometry model (Φ_g)"),
        (("transformer.blocks.0.attn1.to_q.lora_A.weight",), "a LoRA adapter"),
        (("condition_embedder.time_proj.weight",), "a Wan video transformer"),
        (("encoder.conv_in.weight",), "a video VAE"),
        (("encoder.block.0.layer.0.SelfAttention.q.weight",), "a text encoder"),
    ],
)
def test_checkpoints_of_another_model_are_recognised(keys: tuple[str, ...], title: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({key: torch.zeros(4) for key in keys}, path)
    with pytest.raises(UserError) as error:
        load_geometry("any4d", path)
    assert f"weights.safetensors holds the weights of {title}, not of Any4D" in one_line(error)


def test_torch_checkpoints_of_another_model_are_recognised(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(VGGT(VGGT_DEBUG).state_dict(), path)
    with pytest.raises(UserError) as error:
        load_weights(path, small(ANY4D))
    assert "weights.pth: this checkpoint holds the weights of VGGT, not of Any4D" in one_line(error)


def test_own_checkpoints_are_recognised(any4d: Any4D) -> None:
    assert identify(any4d.state_dict()) == "Any4D"
    assert identify(VGGT(VGGT_DEBUG).state_dict()) == "VGGT"
    assert identify({"something.weight": torch.zeros(1)}) is None


def test_strange_names_are_listed_by_name(any4d: Any4D, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    state: dict[str, Tensor] = {f"surprise{index}": torch.zeros(1) for index in range(10)}
    save_file({**any4d.state_dict(), **state}, path)
    with pytest.raises(UserError) as error:
        load_weights(path, small(ANY4D))
    assert "unexpected: surprise0, surprise1" in one_line(error)
    assert "and 2 more" in one_line(error)


def test_models_are_found_by_name_with_their_licences() -> None:
    assert {"any4d", "vggt"} <= set(GEOMETRY_MODELS)
    with pytest.raises(UserError, match="did you mean 'vggt'"):
        geometry_info("vgt")
    with pytest.raises(UserError, match="choose one of any4d"):
        build_geometry("x", random_seed=0)
    for info in GEOMETRY_MODELS.values():
        notice = info.notice()
        assert "\n" not in notice
        assert all(part in notice for part in (info.title, info.licence_code, info.licence_weights, *info.skipped))
    assert "track_head" in geometry_info("vggt").notice()


@pytest.mark.parametrize("name", OWN_MODELS)
def test_random_models_can_be_measured_and_follow_their_seed(name: str) -> None:
    before = torch.random.get_rng_state()
    images = torch.rand(1, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scene = build_geometry(name, random_seed=1, size="debug").geometry(images)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert scene.valid.float().mean() > 0.5
    assert scene.points.isfinite().all()
    assert torch.equal(build_geometry(name, random_seed=1, size="debug").geometry(images).depth, scene.depth)
    assert not torch.equal(build_geometry(name, random_seed=2, size="debug").geometry(images).depth, scene.depth)


def test_foreign_models_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Linear"):
        save_geometry(nn.Linear(1, 1), tmp_path)
