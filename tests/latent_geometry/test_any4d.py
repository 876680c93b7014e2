"""Our Any4D against numbers of the official implementation, its key list, and itself cut at every block."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vggrpo.latent_geometry.foundation.any4d import Any4D, FrameSelection
from vggrpo.latent_geometry.foundation.any4d_checkpoint import ANY4D, DROPPED_SUBMODULES, canonical_key
from vggrpo.latent_geometry.foundation.any4d_config import DEBUG, TINY, Any4DConfig
from vggrpo.latent_geometry.foundation.any4d_start import start_from_scratch
from vggrpo.latent_geometry.foundation.base import GeometryModel
from vggrpo.latent_geometry.foundation.registry import build_geometry, load_geometry, save_geometry
from vggrpo.latent_geometry.foundation.weight_files import fill
from vggrpo.runtime.errors import UserError

GOLDEN_CONFIG = Any4DConfig(
    encoder_dim=64,
    encoder_depth=3,
    encoder_heads=4,
    sharing_dim=48,
    sharing_depth=4,
    sharing_heads=4,
    sharing_taps=(1, 2),
    dpt_features=32,
    dpt_layer_dims=(16, 24, 32, 48),
    pose_hidden=64,
)
TOLERANCE = 1.5e-5
CASES = ("", "extra/single_view/", "extra/batch2/")


@pytest.fixture(scope="module")
def model(golden: dict[str, Tensor]) -> Any4D:
    model = Any4D(GOLDEN_CONFIG).eval()
    fill(model, golden_weights(golden), layout=ANY4D.layout)
    return model


def golden_weights(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("weights/"): value for key, value in golden.items() if key.startswith("weights/")}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_outputs_equal_the_official_ones(model: Any4D, golden: dict[str, Tensor], case: str) -> None:
    output = model(golden[f"{case}input/images"])
    names = [key.removeprefix(f"{case}output/") for key in golden if key.startswith(f"{case}output/")]
    assert len(names) == 11
    for name in names:
        expected = golden[f"{case}output/{name}"]
        if expected.dtype == torch.bool:
            assert torch.equal(getattr(output, name), expected)
        else:
            torch.testing.assert_close(getattr(output, name), expected, rtol=0, atol=TOLERANCE, msg=name)


def record(model: Any4D, images: Tensor) -> dict[str, Tensor]:
    """Outputs of the modules that the golden intermediates are taken from."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, *, is_input: bool = False) -> None:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = inputs[0] if is_input else output

        handles.append(module.register_forward_hook(hook))

    handles: list = []
    keep("fused_features", model.fusion_norm_layer)
    keep("dense_head_raw", model.get_submodule("dpt_regressor_head"))
    keep("scene_flow_head_raw", model.get_submodule("scene_flow_dpt_regressor_head"))
    keep("pose_head_raw", model.pose_head)
    keep("scale_head_raw", model.scale_head)
    keep("info_input", model.info_sharing.self_attention_blocks[0], is_input=True)
    for index, block in enumerate(model.info_sharing.self_attention_blocks):
        keep(f"info_block{index}", block)
    model(images)
    for handle in handles:
        handle.remove()
    return seen


@torch.no_grad()
def test_intermediates_equal_the_official_ones(model: Any4D, golden: dict[str, Tensor]) -> None:
    images = golden["input/images"]
    seen = record(model, images)
    for block in range(4):
        seen[f"encoder_block{block}"] = model.encode_tokens(images, upto=block)
    finished = model.finish_encoder(model.encode_tokens(images, upto=0), start=0)
    seen["encoder_features"] = finished.transpose(2, 3)
    seen["fused_features"] = seen["fused_features"].transpose(2, 3)
    shared = model.info_sharing(model.fusion_norm_layer(finished), model.scale_token)
    taps = {"info_tap0": shared.taps[0], "info_tap1": shared.taps[1], "info_final": shared.final}
    seen |= {name: tokens.transpose(2, 3) for name, tokens in taps.items()}
    seen["info_scale_token"] = shared.scale_token
    expected = {key.removeprefix("intermediate/"): golden[key] for key in golden if key.startswith("intermediate/")}
    assert expected.keys() == seen.keys()
    for name, value in expected.items():
        torch.testing.assert_close(seen[name].reshape(value.shape), value, rtol=0, atol=TOLERANCE, msg=name)


def test_full_size_names_and_shapes_are_the_released_ones(official_keys: dict[str, tuple[int, ...]]) -> None:
    with torch.device("meta"):
        model = Any4D(Any4DConfig())
    ours = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    expected = {name: shape for key, shape in official_keys.items() if (name := canonical_key(key)) is not None}
    assert ours == expected
    dropped = {key.split(".")[0] for key in official_keys if canonical_key(key) is None}
    assert dropped == set(DROPPED_SUBMODULES)


def test_full_size_has_the_published_number_of_parameters(official_keys: dict[str, tuple[int, ...]]) -> None:
    """Ours and the encoders of geometric inputs, which are left out, make up the published model."""
    model = build_geometry("any4d", random_seed=0, size="full", device="meta")
    assert isinstance(model, nn.Module)
    assert all(parameter.is_meta for parameter in model.parameters())
    ours = sum(parameter.numel() for parameter in model.parameters())
    left_out = sum(math.prod(shape) for key, shape in official_keys.items() if canonical_key(key) is None)
    assert (ours, left_out) == (519_071_553, 94_580_276)
    assert ours + left_out == 613_651_829


def official_copy(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict as an official checkpoint holds it: with aliases and unused encoders."""
    state = golden_weights(golden)
    aliased = {
        "dense_head.0." + key.removeprefix("dpt_feature_head."): value
        for key, value in state.items()
        if key.startswith("dpt_feature_head.")
    }
    aliased["dense_head.0.scratch.layer_rn.0.weight"] = state["dpt_feature_head.scratch.layer1_rn.weight"]
    aliased["scene_flow_dpt_feature_head.input_process.3.1.weight"] = state[
        "scene_flow_dpt_feature_head.scratch.layer4_rn.weight"
    ]
    return state | aliased | {"depth_encoder.proj.weight": torch.zeros(2)}


def test_aliases_are_mapped_once(golden: dict[str, Tensor]) -> None:
    model = Any4D(GOLDEN_CONFIG)
    fill(model, official_copy(golden), layout=ANY4D.layout)
    assert torch.equal(model.scale_token, golden["weights/scale_token"])


def test_a_differing_alias_is_named(golden: dict[str, Tensor]) -> None:
    state = official_copy(golden)
    state["dense_head.0.scratch.layer_rn.0.weight"] = state["dense_head.0.scratch.layer_rn.0.weight"] + 1
    with pytest.raises(UserError, match=r"dense_head\.0\.scratch\.layer_rn\.0\.weight"):
        fill(Any4D(GOLDEN_CONFIG), state, layout=ANY4D.layout)


def test_missing_unexpected_and_misshaped_weights_are_named(golden: dict[str, Tensor]) -> None:
    state = golden_weights(golden)
    del state["scale_token"]
    state["surprise.weight"] = torch.zeros(1)
    state["pose_head.fc_t.bias"] = torch.zeros(4)
    with pytest.raises(UserError) as error:
        fill(Any4D(GOLDEN_CONFIG), state, layout=ANY4D.layout)
    message = str(error.value)
    assert "missing: scale_token" in message
    assert "unexpected: surprise.weight" in message
    assert "pose_head.fc_t.bias (4,) instead of (3,)" in message


@pytest.mark.parametrize("start", range(4))
@torch.no_grad()
def test_replay_from_every_cut_is_exact(model: Any4D, golden: dict[str, Tensor], start: int) -> None:
    images = golden["input/images"]
    whole = model.geometry(images)
    tokens = model.encode_tokens(images, upto=start)
    replayed = model.decode(model.finish_encoder(tokens, start=start), grid=model.grid_of(images))
    for name in whole.__dataclass_fields__:
        assert torch.equal(getattr(whole, name), getattr(replayed, name)), name


@torch.no_grad()
def test_activations_of_one_pass_equal_those_of_each_cut(debug_model: Any4D) -> None:
    images = torch.rand(2, 3, 3, 32, 48)
    for block, tokens in enumerate(debug_model.encoder_activations(images), start=1):
        assert torch.equal(tokens, debug_model.encode_tokens(images, upto=block))


@torch.no_grad()
def test_dense_frames_are_those_of_the_whole_video(debug_model: Any4D) -> None:
    images = torch.rand(1, 4, 3, 32, 32)
    whole = debug_model.geometry(images)
    features = debug_model.finish_encoder(debug_model.encode_tokens(images, upto=0), start=0)
    part = debug_model.decode_frames(features, grid=(2, 2), frames=torch.tensor([1, 3]))
    torch.testing.assert_close(part.camera_from_world, whole.camera_from_world)
    for name in whole.__dataclass_fields__:
        torch.testing.assert_close(getattr(part.scene, name), getattr(whole, name)[:, [1, 3]], msg=name)


@torch.no_grad()
def test_dense_frames_with_flow_on_the_reference_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the frames that the steps need are decoded; what comes out is what the whole video gives."""
    torch.manual_seed(0)
    model = Any4D(replace(DEBUG, flow_grid="reference", max_views=1)).eval()
    start_from_scratch(model)
    images = torch.rand(2, 9, 3, 32, 48)
    whole = model.geometry(images)
    features = model.finish_encoder(model.encode_tokens(images, upto=0), start=0)
    decoded: list[int] = []
    monkeypatch.setattr(model, "dense_maps", lambda *args, **options: count_frames(args, options))

    def count_frames(args: tuple, options: dict) -> Tensor:
        decoded.append(args[1][0].shape[0] // 2)
        return Any4D.dense_maps(model, *args, **options)

    part = model.decode_frames(features, grid=(2, 3), frames=torch.tensor([2, 8]))
    assert decoded == [5, 5]  # of frames 0, 2, 3, 7, 8: once geometry, once flow
    torch.testing.assert_close(part.camera_from_world, whole.camera_from_world)
    for name in whole.__dataclass_fields__:
        torch.testing.assert_close(getattr(part.scene, name), getattr(whole, name)[:, [2, 8]], msg=name)


@torch.no_grad()
def test_offsets_are_the_frames_of_a_longer_video(debug_model: Any4D) -> None:
    """With every offset given, nothing changes; with another one, the order that the model sees does."""
    images = torch.rand(1, 3, 3, 32, 32)
    plain = debug_model(images)
    same = debug_model(images, selection=FrameSelection(offsets=torch.arange(3)[None]))
    other = debug_model(images, selection=FrameSelection(offsets=torch.tensor([[0, 1, 5]])))
    assert torch.equal(plain.cam_trans, same.cam_trans)
    assert not torch.allclose(plain.cam_trans, other.cam_trans)


def test_gradients_reach_images_and_every_weight(debug_model: Any4D) -> None:
    images = torch.rand(1, 3, 3, 32, 32, requires_grad=True)
    output = debug_model(images)
    total = output.pts3d.square().sum() + output.scene_flow.square().sum() + output.conf.sum()
    total = total + output.non_ambiguous_mask_logits.square().sum() + (output.cam_quats * output.cam_quats[:, :1]).sum()
    total.backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert [name for name, parameter in debug_model.named_parameters() if parameter.grad is None] == []


def test_model_implements_the_protocol(debug_model: Any4D) -> None:
    assert isinstance(debug_model, GeometryModel)


def test_tiny_shares_one_token_grid_with_its_latents() -> None:
    assert 128 // TINY.patch_size == 16 // 2 == TINY.position_grid


def test_save_and_load_keep_the_model(debug_model: Any4D, tmp_path: Path) -> None:
    debug_model.to_bfloat16()
    save_geometry(debug_model, tmp_path)
    loaded = load_geometry("any4d", tmp_path)
    assert loaded.config == debug_model.config
    for name, tensor in debug_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.float()), name
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="max_views"):
        Any4DConfig(flow_grid="self")
    with pytest.raises(ValueError, match="sharing_taps"):
        replace(DEBUG, sharing_taps=(0, 9))
