"""Our VGGT against numbers of the official implementation, its key list, and itself cut at every block."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from tests.latent_geometry.samples import exact_scene
from vggrpo.geometry import so3
from vggrpo.geometry.projection import rigid_matrix
from vggrpo.latent_geometry.foundation.base import GeometryModel
from vggrpo.latent_geometry.foundation.registry import build_geometry
from vggrpo.latent_geometry.foundation.vggt import VGGT, VGGTOutput
from vggrpo.latent_geometry.foundation.vggt_adapter import camera_matrices, intrinsics_of_view, to_decoded_frames
from vggrpo.latent_geometry.foundation.vggt_checkpoint import DROPPED_SUBMODULES, VGGT_1B, stored_key
from vggrpo.latent_geometry.foundation.vggt_config import VGGT_DEBUG, VGGTConfig
from vggrpo.latent_geometry.foundation.weight_files import fill
from vggrpo.rewards.geometry_consistency import geometry_consistency

GOLDEN = Path(__file__).parents[1] / "golden"
GOLDEN_CONFIG = VGGTConfig(
    encoder_dim=64,
    encoder_depth=3,
    encoder_heads=4,
    pairs=4,
    sharing_heads=4,
    taps=(0, 1, 2, 3),
    camera_depth=2,
    camera_heads=4,
    dpt_features=32,
    dpt_channels=(16, 32, 64, 64),
)
TOLERANCE = 1.5e-5
CASES = ("", "extra/single_frame/", "extra/batch2/")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    """Tensors of the official tiny VGGT."""
    with safe_open(GOLDEN / "vggt_tiny.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict


@pytest.fixture(scope="module")
def official_keys() -> dict[str, tuple[int, ...]]:
    return {key: tuple(shape) for key, shape in json.loads((GOLDEN / "vggt_full_keys.json").read_text()).items()}


@pytest.fixture(scope="module")
def model(golden: dict[str, Tensor]) -> VGGT:
    """Filled strictly: a name too many or too few would be refused."""
    model = VGGT(GOLDEN_CONFIG).eval()
    weights = {key.removeprefix("weights/"): value for key, value in golden.items() if key.startswith("weights/")}
    fill(model, weights, layout=VGGT_1B.layout)
    return model


@pytest.fixture
def debug_model() -> VGGT:
    torch.manual_seed(3)
    model = VGGT(VGGT_DEBUG).eval()
    model.start_from_scratch()
    return model


def official_outputs(output: VGGTOutput, *, size: tuple[int, int]) -> dict[str, Tensor]:
    assert output.points is not None
    assert output.points_confidence is not None
    return {
        "pose_enc": output.pose_encoding,
        "extrinsics": camera_matrices(output.pose_encoding)[..., :3, :],
        "intrinsics": intrinsics_of_view(output.pose_encoding[..., 7:], size=size),
        "depth": output.depth[..., None],
        "depth_conf": output.depth_confidence,
        "world_points": output.points,
        "world_points_conf": output.points_confidence,
    }


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_outputs_equal_the_official_ones(model: VGGT, golden: dict[str, Tensor], case: str) -> None:
    images = golden[f"{case}input/images"]
    outputs = official_outputs(model(images, with_points=True), size=(images.shape[-2], images.shape[-1]))
    names = {key.removeprefix(f"{case}output/") for key in golden if key.startswith(f"{case}output/")}
    assert names == outputs.keys()
    for name, value in outputs.items():
        expected = golden[f"{case}output/{name}"]
        relative = 1e-5 if name == "intrinsics" else 0.0
        torch.testing.assert_close(value, expected, rtol=relative, atol=TOLERANCE, msg=name)


def record(model: VGGT, images: Tensor) -> dict[str, Tensor]:
    """Outputs of the modules that the golden intermediates are taken from."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> Iterator:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output

        yield module.register_forward_hook(hook)

    handles = [*keep("depth_head_raw", model.get_submodule("depth_head"))]
    handles += keep("point_head_raw", model.get_submodule("point_head"))
    for index in range(4):
        handles += keep(f"frame{index}", model.aggregator.frame_blocks[index])
        handles += keep(f"global{index}", model.aggregator.global_blocks[index])
    output = model(images, with_points=True)
    for handle in handles:
        handle.remove()
    for index in range(4):
        frame = seen.pop(f"frame{index}")
        across = seen.pop(f"global{index}").reshape(frame.shape)
        seen[f"agg_{index}"] = torch.cat([frame, across], dim=-1)
    return seen | {f"pose_enc_iter{index}": pose for index, pose in enumerate(output.pose_encodings)}


@torch.no_grad()
def test_intermediates_equal_the_official_ones(model: VGGT, golden: dict[str, Tensor]) -> None:
    images = golden["input/images"]
    seen = record(model, images)
    for block in range(4):
        seen[f"encoder_block{block}"] = model.encode_tokens(images, upto=block)
    seen["encoder_patchtokens"] = model.finish_encoder(model.encode_tokens(images, upto=0), start=0)
    expected = {key.removeprefix("intermediate/"): golden[key] for key in golden if key.startswith("intermediate/")}
    assert expected.keys() == seen.keys()
    for name, value in expected.items():
        torch.testing.assert_close(seen[name].reshape(value.shape), value, rtol=0, atol=TOLERANCE, msg=name)


def test_full_size_names_and_shapes_are_the_released_ones(official_keys: dict[str, tuple[int, ...]]) -> None:
    model = build_geometry("vggt", random_seed=0, size="full", device="meta")
    assert isinstance(model, nn.Module)
    ours = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert ours == {key: shape for key, shape in official_keys.items() if stored_key(key) is not None}
    assert all(tensor.is_meta for tensor in model.parameters())
    dropped = {key.split(".")[0] for key in official_keys if stored_key(key) is None}
    assert dropped == set(DROPPED_SUBMODULES)
    held = sum(parameter.numel() for parameter in model.parameters())
    track_head = sum(math.prod(shape) for key, shape in official_keys.items() if stored_key(key) is None)
    assert (held, track_head) == (1_190_596_120, 65_941_396)
    assert held + track_head == 1_256_537_516


class LargeTensors(TorchDispatchMode):
    """Watches the memory of every tensor of a token's whole width that is made while it is on."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.made: list[StorageWeakRef] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.ndim > 2 and result.shape[-1] == self.width:
            self.made.append(StorageWeakRef(result.untyped_storage()))
        return result

    def alive(self) -> int:
        return len({one.cdata for one in self.made if not one.expired()})


@torch.no_grad()
def test_only_the_tapped_layers_are_kept() -> None:
    """While the last pair runs, the joined tokens of the four taps are in memory, and of no other pair."""
    model = VGGT(replace(GOLDEN_CONFIG, pairs=8, taps=(0, 2, 4, 6))).eval()
    alive: list[int] = []
    with LargeTensors(width=128) as watched:
        model.aggregator.global_blocks[-1].register_forward_pre_hook(lambda *_: alive.append(watched.alive()))
        tokens = model.aggregator(torch.randn(1, 2, 20, 64), grid=(4, 5))
    assert alive == [4]
    assert [tap.shape for tap in tokens.taps] == [(1, 2, 20, 128)] * 4


@pytest.mark.parametrize("start", range(4))
@torch.no_grad()
def test_replay_from_every_cut_is_exact(model: VGGT, golden: dict[str, Tensor], start: int) -> None:
    images = golden["input/images"]
    whole = model.geometry(images)
    tokens = model.encode_tokens(images, upto=start)
    replayed = model.decode(model.finish_encoder(tokens, start=start), grid=model.grid_of(images))
    for name in whole.__dataclass_fields__:
        assert torch.equal(getattr(whole, name), getattr(replayed, name)), name


@torch.no_grad()
def test_dense_frames_are_those_of_the_whole_video(debug_model: VGGT) -> None:
    images = torch.rand(1, 4, 3, 32, 32)
    whole = debug_model.geometry(images)
    features = debug_model.finish_encoder(debug_model.encode_tokens(images, upto=0), start=0)
    part = debug_model.decode_frames(features, grid=(2, 2), frames=torch.tensor([1, 3]))
    torch.testing.assert_close(part.camera_from_world, whole.camera_from_world)
    for name in whole.__dataclass_fields__:
        torch.testing.assert_close(getattr(part.scene, name), getattr(whole, name)[:, [1, 3]], msg=name)


def test_model_implements_the_protocol(debug_model: VGGT) -> None:
    assert isinstance(debug_model, GeometryModel)
    assert debug_model.num_prefix_tokens == 5


def test_gradients_reach_images_and_every_weight_that_is_used(debug_model: VGGT) -> None:
    images = torch.rand(1, 3, 3, 32, 32, requires_grad=True)
    output = debug_model(images, with_points=True)
    total = output.points.square().sum() + output.depth.sum() + output.depth_confidence.sum()
    (total + output.points_confidence.sum() + output.pose_encoding.square().sum()).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    without = {name for name, parameter in debug_model.named_parameters() if parameter.grad is None}
    # Each refinement starts from the last one without its graph; the mask token serves official training only.
    assert without == {"camera_head.empty_pose_tokens", "aggregator.patch_embed.mask_token"}


def exact_output(*, size: tuple[int, int] = (24, 32), frames: int = 3) -> VGGTOutput:
    """What an exact VGGT would say of an exact scene with a centred camera, in a world that is not camera 0."""
    scene = exact_scene(frames=frames, height=size[0], width=size[1])
    drift = rigid_matrix(
        so3.exp(torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)), torch.tensor([0.5, -1.0, 2.0]).double()
    )
    cameras = scene.camera_from_world @ drift
    view = torch.tensor([2 * math.atan(size[0] / 2 / 40.0), 2 * math.atan(size[1] / 2 / 42.0)], dtype=torch.float64)
    quaternion = 1.7 * so3.quaternion_from_matrix(cameras[..., :3, :3])
    encoding = torch.cat([cameras[..., :3, 3], quaternion, view.expand(1, frames, 2)], dim=-1)
    return VGGTOutput(
        pose_encodings=(torch.zeros_like(encoding), encoding),
        depth=scene.depth,
        depth_confidence=scene.confidence,
        points=None,
        points_confidence=None,
    )


def test_exact_output_becomes_the_exact_scene() -> None:
    """World = camera 0 exactly, K from the fields of view, points from depth; no flow."""
    expected = exact_scene()
    scene = to_decoded_frames(exact_output(), frames=None).scene
    assert torch.equal(scene.camera_from_world[0, 0], torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(scene.camera_from_world, expected.camera_from_world)
    intrinsics = torch.tensor([[42.0, 0, 16], [0, 40.0, 12], [0, 0, 1]], dtype=torch.float64).expand(1, 3, 3, 3)
    torch.testing.assert_close(scene.intrinsics, intrinsics)
    row, column = 5, 7
    depth = scene.depth[0, 1, row, column]
    in_camera = torch.tensor([(column + 0.5 - 16) / 42, (row + 0.5 - 12) / 40, 1.0], dtype=torch.float64) * depth
    camera = scene.camera_from_world[0, 1]
    torch.testing.assert_close(camera[:3, :3] @ scene.points[0, 1, row, column] + camera[:3, 3], in_camera)
    assert scene.valid.all()
    assert not scene.flow_valid.any()
    assert scene.scene_flow.abs().sum() == 0


def test_a_view_of_no_camera_gives_a_finite_one() -> None:
    """The field of view is rectified, so an untrained or unsure model may say exactly zero."""
    output = exact_output()
    encoding = output.pose_encoding.clone()
    encoding[..., 7:] = 0.0
    encoding.requires_grad_()
    scene = to_decoded_frames(replace(output, pose_encodings=(encoding,)), frames=None).scene
    torch.testing.assert_close(scene.intrinsics[0, 0, 0], torch.tensor([32.0, 0, 16], dtype=torch.float64))
    scene.points.sum().backward()
    assert encoding.grad is not None
    assert encoding.grad.isfinite().all()


def test_rewards_take_it_for_a_static_scene(debug_model: VGGT) -> None:
    """Without flow everything counts as standing still, and can be judged."""
    torch.manual_seed(0)
    images = torch.rand(1, 6, 3, 48, 48)
    with torch.no_grad():
        term = geometry_consistency(debug_model.geometry(images))
    assert term.reasons == (None,)
    assert term.value.isfinite().all()


def test_the_heads_keep_their_digits_in_bfloat16(debug_model: VGGT) -> None:
    images = torch.rand(1, 2, 3, 32, 32)
    precise = debug_model.geometry(images)
    debug_model.to_bfloat16()
    kinds = {name.split(".")[0]: parameter.dtype for name, parameter in debug_model.named_parameters()}
    assert kinds.pop("aggregator") == torch.bfloat16
    assert set(kinds.values()) == {torch.float32}
    half = debug_model.geometry(images)
    assert half.depth.dtype == torch.float32
    torch.testing.assert_close(half.depth, precise.depth, rtol=0.05, atol=0.05)


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="taps"):
        replace(VGGT_DEBUG, taps=(0, 1, 2, 9))
    with pytest.raises(ValueError, match="multiple of 4"):
        replace(VGGT_DEBUG, sharing_heads=16)
    with pytest.raises(ValueError, match="multiple of its number of heads"):
        replace(VGGT_DEBUG, encoder_heads=5)
