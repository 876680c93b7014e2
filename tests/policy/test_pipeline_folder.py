"""What is wrong with a folder of weights is one line that names the file; nothing of it is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.real_models import write_wan21, write_wan22
from vggrpo.policy.pipeline_folder import build_part, check_pipeline_folder, read_sizes
from vggrpo.policy.wan_sizes import WAN21_1_3B, WAN22_TI2V_5B
from vggrpo.presets import ASSETS
from vggrpo.runtime.errors import UserError

SHARD = "transformer/diffusion_pytorch_model-00001-of-00002.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wan21(tmp_path_factory.mktemp("whole") / "wan21")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wan22(tmp_path_factory.mktemp("other") / "wan22")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "mine")


def edit(file: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def rewrite(file: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def first_tensor(tensors: dict[str, torch.Tensor]) -> str:
    return min(tensors)


def test_whole_folders_are_taken_at_their_own_sizes(whole: Path, other: Path) -> None:
    assert check_pipeline_folder(whole).sizes.transformer["num_layers"] == 3
    sizes = check_pipeline_folder(other).sizes
    assert (sizes.expand_timesteps, sizes.vae["z_dim"], sizes.vae["scale_factor_spatial"]) == (True, 48, 16)
    assert check_pipeline_folder(ASSETS / "tiny").part("vae") == ASSETS / "tiny" / "vae"


def test_a_truncated_shard_is_named(folder: Path) -> None:
    shard = folder / SHARD
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{shard} is truncated or damaged") as caught:
        check_pipeline_folder(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 4, 200])
def test_a_shard_without_its_header_is_named(folder: Path, size: int) -> None:
    shard = folder / SHARD
    shard.write_bytes(shard.read_bytes()[:size])
    with pytest.raises(UserError, match=f"{shard} is truncated or damaged"):
        check_pipeline_folder(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / SHARD).unlink()
    with pytest.raises(UserError, match=f"The shard {folder / SHARD} is missing"):
        check_pipeline_folder(folder)


def test_weights_of_another_size_are_named(folder: Path) -> None:
    rewrite(folder / SHARD, lambda tensors: tensors.update({first_tensor(tensors): torch.zeros(3)}))
    with pytest.raises(UserError, match=f"{folder / SHARD} is of another model than .* has shape \\[3\\], not"):
        check_pipeline_folder(folder)


def test_missing_tensors_are_named_and_never_made_up(folder: Path) -> None:
    rewrite(folder / SHARD, lambda tensors: tensors.pop("blocks.0.attn1.to_q.weight"))
    with pytest.raises(UserError, match=r"another model: blocks\.0.attn1.to_q.weight missing"):
        check_pipeline_folder(folder)


def test_tensors_too_many_are_named(folder: Path) -> None:
    rewrite(folder / SHARD, lambda tensors: tensors.update({"image_embedder.weight": torch.zeros(1)}))
    with pytest.raises(UserError, match=r"it holds image_embedder.weight too much"):
        check_pipeline_folder(folder)


def test_the_encoder_may_store_its_shared_table_once(folder: Path) -> None:
    file = folder / "text_encoder/model.safetensors"
    held = set(load_file(file))
    assert len(held & {"shared.weight", "encoder.embed_tokens.weight"}) == 1
    check_pipeline_folder(folder)
    rewrite(file, lambda tensors: tensors.pop(next(iter(held & {"shared.weight", "encoder.embed_tokens.weight"}))))
    with pytest.raises(UserError, match=r"shared\.weight"):
        check_pipeline_folder(folder)


@pytest.mark.parametrize("suffix", [".bin", ".pth"])
def test_formats_that_can_run_code_are_refused(folder: Path, suffix: str) -> None:
    for file in (folder / "text_encoder").glob("model*.safetensors"):
        file.rename(file.with_suffix(suffix))
    with pytest.raises(UserError, match=f"model{suffix} is not read, because such files can run code"):
        check_pipeline_folder(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda index: index.update(_class_name="FluxPipeline"), "holds a FluxPipeline"),
        (lambda index: index.update(transformer_2=["diffusers", "WanTransformer3DModel"]), "two transformers"),
        (lambda index: index.update(vae=["diffusers", "AutoencoderKL"]), "AutoencoderKL as its vae"),
        (lambda index: index.pop("text_encoder"), "nothing as its text_encoder"),
    ],
)
def test_other_pipelines_are_refused(folder: Path, change: Callable[[dict], object], words: str) -> None:
    edit(folder / "model_index.json", change)
    with pytest.raises(UserError, match=words):
        check_pipeline_folder(folder)


def test_parts_of_two_models_are_refused(folder: Path, other: Path) -> None:
    shutil.rmtree(folder / "vae")
    shutil.copytree(other / "vae", folder / "vae")
    with pytest.raises(UserError, match="takes latents of 16 channels, its VAE makes 48"):
        check_pipeline_folder(folder)


def test_models_with_an_image_encoder_are_refused(folder: Path) -> None:
    edit(folder / "transformer/config.json", lambda config: config.update(image_dim=1280))
    with pytest.raises(UserError, match="image-to-video"):
        check_pipeline_folder(folder)


@pytest.mark.parametrize("missing", ["model_index.json", "vae/config.json", "tokenizer"])
def test_missing_files_are_named(folder: Path, missing: str) -> None:
    path = folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=missing):
        check_pipeline_folder(folder)


def test_a_damaged_configuration_is_named(folder: Path) -> None:
    (folder / "vae/config.json").write_text('{"z_dim": 16')
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        check_pipeline_folder(folder)
    with pytest.raises(UserError, match="is no folder"):
        check_pipeline_folder(folder / "model_index.json")


@pytest.mark.parametrize(
    ("sizes", "transformer", "vae"),
    [(WAN21_1_3B, 1_418_996_800, 126_892_531), (WAN22_TI2V_5B, 4_999_787_712, 704_688_668)],
    ids=["wan2.1-t2v-1.3b", "wan2.2-ti2v-5b"],
)
def test_released_models_have_their_official_numbers_of_parameters(sizes: object, transformer: int, vae: int) -> None:
    """Built at full size on ``meta``: no memory, exact shapes."""
    with torch.device("meta"):
        parts = {name: build_part(name, sizes) for name in ("transformer", "vae", "text_encoder")}
    count = {name: sum(tensor.numel() for tensor in part.parameters()) for name, part in parts.items()}
    assert count == {"transformer": transformer, "vae": vae, "text_encoder": 5_680_910_336}


def test_sizes_are_read_without_weights(folder: Path) -> None:
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    assert read_sizes(folder).text_encoder["d_model"] == 48
