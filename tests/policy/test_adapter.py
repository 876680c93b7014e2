"""The LoRA: what it adapts, what it leaves alone, and what diffusers alone makes of the file."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.policy.small_pipeline import SMALL
from vggrpo.policy.adapter import (
    LoraSettings,
    adapter_disabled,
    adapter_parameters,
    add_adapter,
    load_adapter,
    remove_adapter,
    save_adapter,
)
from vggrpo.policy.backbone import TextConditioner, load_transformer
from vggrpo.policy.sampling import Conditions, draw_noise, sample_ode
from vggrpo.runtime.errors import UserError

CPU = torch.device("cpu")
SETTINGS = LoraSettings(rank=3, alpha=12.0)
"""α / r = 4: diffusers would take 1 if α were lost."""
DTYPES = [torch.float32, torch.bfloat16]
PROMPT = "a red cube on a grey striped floor, the camera orbits left"


@pytest.fixture
def load(pipeline_folder: Path) -> Callable[..., WanTransformer3DModel]:
    def load_base(dtype: torch.dtype = torch.float32) -> WanTransformer3DModel:
        return load_transformer(pipeline_folder, dtype=dtype, device=CPU)

    return load_base


def velocity(transformer: WanTransformer3DModel) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return transformer(
            hidden_states=torch.randn(1, 4, 3, 8, 8, generator=generator).to(transformer.dtype),
            timestep=torch.tensor([500.0]),
            encoder_hidden_states=torch.randn(1, 6, 32, generator=generator).to(transformer.dtype),
            return_dict=False,
        )[0]


def tune(transformer: WanTransformer3DModel) -> None:
    """As if it had been trained: B is no longer zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in adapter_parameters(transformer).values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


# --- Adding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_new_adapter_is_trainable_in_fp32_and_changes_nothing(
    load: Callable[..., WanTransformer3DModel], dtype: torch.dtype
) -> None:
    transformer = load(dtype)
    base = velocity(transformer)
    transformer.requires_grad_(requires_grad=True)
    names = add_adapter(transformer, SETTINGS, seed=0)
    layers = [f"blocks.{b}.{a}.{t}" for b in (0, 1) for a in ("attn1", "attn2") for t in SETTINGS.targets]
    assert sorted(names) == sorted(layers)
    parameters = adapter_parameters(transformer)
    assert len(parameters) == 2 * len(layers)
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    assert {n for n, p in transformer.named_parameters() if p.requires_grad} == set(parameters)
    assert transformer.dtype == dtype
    assert torch.equal(velocity(transformer), base)


def test_the_adapter_is_a_function_of_its_seed_and_leaves_the_global_generator_alone(
    load: Callable[..., WanTransformer3DModel],
) -> None:
    weights = []
    for seed in (0, 0, 1):
        transformer = load()
        state = torch.random.get_rng_state()
        add_adapter(transformer, SETTINGS, seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        weights.append(adapter_parameters(transformer)["blocks.0.attn1.to_q.lora_A.default.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert float(weights[0].detach().std()) == pytest.approx(1 / SETTINGS.rank, rel=0.3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tiny_updates_are_not_lost_over_a_bf16_base(
    load: Callable[..., WanTransformer3DModel], dtype: torch.dtype
) -> None:
    """1e-4 relative: below bf16's resolution of 4e-3."""
    transformer = load(dtype)
    add_adapter(transformer, SETTINGS, seed=0)
    parameter = adapter_parameters(transformer)["blocks.0.attn1.to_q.lora_A.default.weight"]
    before = parameter.detach().clone()
    parameter.data *= 1.0001
    assert ((parameter / before - 1.0001).abs() < 1e-6).all()


@pytest.mark.parametrize("targets", [("q",), ("to_q", "to_kk"), ("attn1",), ()])
def test_a_target_that_names_no_layer_is_refused(
    load: Callable[..., WanTransformer3DModel], targets: tuple[str, ...]
) -> None:
    transformer = load()
    base = velocity(transformer)
    with pytest.raises(UserError, match="target") as caught:
        add_adapter(transformer, LoraSettings(targets=targets), seed=0)
    assert "\n" not in str(caught.value)
    assert adapter_parameters(transformer) == {}
    assert torch.equal(velocity(transformer), base)


@pytest.mark.parametrize("changes", [{"rank": 0}, {"alpha": 0.0}, {"alpha": float("nan")}])
def test_senseless_sizes_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(UserError, match="LoRA"):
        LoraSettings(**changes)


def test_one_adapter_at_a_time(load: Callable[..., WanTransformer3DModel], tmp_path: Path) -> None:
    transformer = load()
    add_adapter(transformer, SETTINGS, seed=0)
    file = save_adapter(transformer, tmp_path)
    with pytest.raises(ValueError, match="already"):
        add_adapter(transformer, SETTINGS, seed=0)
    with pytest.raises(ValueError, match="already"):
        load_adapter(transformer, file)
    assert len(adapter_parameters(transformer)) == 32


# --- Off and away ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_switched_off_it_is_the_base_to_the_bit(load: Callable[..., WanTransformer3DModel], dtype: torch.dtype) -> None:
    transformer = load(dtype)
    base = velocity(transformer)
    add_adapter(transformer, SETTINGS, seed=0)
    tune(transformer)
    tuned = velocity(transformer)
    assert (tuned - base).abs().mean() > 1e-3
    with adapter_disabled(transformer):
        assert torch.equal(velocity(transformer), base)
    assert torch.equal(velocity(transformer), tuned)
    remove_adapter(transformer)
    assert torch.equal(velocity(transformer), base)
    assert add_adapter(transformer, SETTINGS, seed=0)


@pytest.mark.parametrize("trainable", [True, False])
def test_switching_back_on_restores_what_was_trainable(
    load: Callable[..., WanTransformer3DModel], trainable: bool
) -> None:
    transformer = load()
    add_adapter(transformer, SETTINGS, seed=0)
    tune(transformer)
    for parameter in adapter_parameters(transformer).values():
        parameter.requires_grad = trainable
    tuned = velocity(transformer)
    with pytest.raises(KeyboardInterrupt), adapter_disabled(transformer):
        raise KeyboardInterrupt
    assert {parameter.requires_grad for parameter in adapter_parameters(transformer).values()} == {trainable}
    assert torch.equal(velocity(transformer), tuned)


# --- On disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_training_goes_on_from_the_very_numbers_of_the_file(
    load: Callable[..., WanTransformer3DModel], tmp_path: Path, dtype: torch.dtype
) -> None:
    transformer = load(dtype)
    add_adapter(transformer, SETTINGS, seed=0)
    tune(transformer)
    file = save_adapter(transformer, tmp_path / "adapter")
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == ["pytorch_lora_weights.safetensors"]
    other = load(dtype).requires_grad_(requires_grad=True)
    load_adapter(other, file.parent, trainable=True)
    assert torch.equal(velocity(other), velocity(transformer))
    assert {parameter.dtype for parameter in adapter_parameters(other).values()} == {torch.float32}
    assert {name for name, p in other.named_parameters() if p.requires_grad} == set(adapter_parameters(other))
    again = save_adapter(other, tmp_path / "again")
    first, second = load_file(file), load_file(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_loaded_adapter_is_frozen_and_of_the_bases_dtype(
    load: Callable[..., WanTransformer3DModel], tmp_path: Path, dtype: torch.dtype
) -> None:
    """The dtype is what ``WanPipeline.load_lora_weights`` makes of it; see the comparison with it below."""
    transformer = load(dtype)
    add_adapter(transformer, SETTINGS, seed=0)
    tune(transformer)
    other = load(dtype)
    load_adapter(other, save_adapter(transformer, tmp_path))
    assert {parameter.dtype for parameter in adapter_parameters(other).values()} == {dtype}
    assert not any(parameter.requires_grad for parameter in other.parameters())
    rounding = 0.0 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(velocity(other), velocity(transformer), rtol=rounding, atol=rounding)


def test_the_file_is_diffusers_format_with_alpha(load: Callable[..., WanTransformer3DModel], tmp_path: Path) -> None:
    transformer = load()
    add_adapter(transformer, SETTINGS, seed=0)
    file = save_adapter(transformer, tmp_path)
    with safe_open(file, framework="pt") as opened:
        metadata = json.loads(opened.metadata()["lora_adapter_metadata"])
        names = set(opened.keys())
    assert (metadata["transformer.r"], metadata["transformer.lora_alpha"]) == (3, 12.0)
    assert all(name.startswith("transformer.blocks.") and ".lora_" in name for name in names)
    text = json.dumps(metadata)
    assert str(tmp_path.anchor + "tmp") not in text


def test_saving_replaces_and_a_failed_save_keeps_what_was_there(
    monkeypatch: pytest.MonkeyPatch, load: Callable[..., WanTransformer3DModel], tmp_path: Path
) -> None:
    transformer = load()
    add_adapter(transformer, SETTINGS, seed=0)
    file = save_adapter(transformer, tmp_path)
    (tmp_path / "state.json").write_text("{}")
    tune(transformer)
    save_adapter(transformer, tmp_path)
    kept = file.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {file.name, "state.json"}

    def fail(folder: str, **_: object) -> None:
        (Path(folder) / "pytorch_lora_weights.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(WanPipeline, "save_lora_weights", fail)
    with pytest.raises(OSError, match="No space"):
        save_adapter(transformer, tmp_path)
    assert file.read_bytes() == kept
    assert {path.name for path in tmp_path.iterdir()} == {file.name, "state.json"}


SCRIPT = """
import functools, sys
import torch
from diffusers import WanPipeline
from safetensors.torch import save_file

pipeline_folder, adapter, out = sys.argv[1:]
latents = {}
for dtype in ("float32", "bfloat16"):
    pipeline = WanPipeline.from_pretrained(pipeline_folder, dtype=getattr(torch, dtype), local_files_only=True)
    pipeline.load_lora_weights(adapter)
    # diffusers shifts twice when it chooses the sigmas itself (diffusers issue 13243): give it the unshifted ones.
    sigmas = [1.0, 0.75, 0.5, 0.25]
    scheduler = pipeline.scheduler
    scheduler.set_timesteps = functools.partial(type(scheduler).set_timesteps, scheduler, sigmas=sigmas)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn((1, 4, 3, 8, 8), generator=torch.Generator().manual_seed(7))
    latents[dtype] = pipeline(
        "a red cube on a grey striped floor, the camera orbits left",
        height=64, width=64, num_frames=9, num_inference_steps=4, guidance_scale=4.0,
        latents=noise, max_sequence_length=64, output_type="latent",
    ).frames.float().contiguous()
save_file(latents, out)
assert not any(name.split(".")[0] == "vggrpo" for name in sys.modules)
"""


@pytest.fixture(scope="module")
def tuned(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter, and the latents that a script without this project makes with it."""
    folder = tmp_path_factory.mktemp("tuned")
    transformer = load_transformer(pipeline_folder, dtype=torch.float32, device=CPU)
    add_adapter(transformer, SETTINGS, seed=0)
    tune(transformer)
    save_adapter(transformer, folder / "adapter")
    command = [sys.executable, "-c", SCRIPT, pipeline_folder, folder / "adapter", folder / "latents.safetensors"]
    result = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_diffusers_alone_loads_it_and_makes_the_same_latents(
    load: Callable[..., WanTransformer3DModel], pipeline_folder: Path, tuned: Path, dtype: torch.dtype
) -> None:
    """Same prompt, same seed, with guidance: ``WanPipeline`` and the page's sampler."""
    theirs = load_file(tuned / "latents.safetensors")[str(dtype).removeprefix("torch.")]
    transformer = load(dtype)
    text = TextConditioner.load(pipeline_folder, dtype=dtype, device=CPU, max_tokens=SMALL.max_tokens)
    conditions = Conditions(text=text.embed(PROMPT), negative=text.embed(""), guidance=4.0)
    noise = draw_noise((1, 4, 3, 8, 8), seed=7, device=CPU)
    base = sample_ode(transformer, noise, conditions, steps=4, shift=3.0).tensor
    load_adapter(transformer, tuned / "adapter")
    ours = sample_ode(transformer, noise, conditions, steps=4, shift=3.0).tensor
    effect = (ours - base).abs().mean()
    assert effect > 0.1
    # The pipeline guides in bf16 and one text after the other, we in fp32 and both at once.
    assert (ours - theirs).abs().mean() < effect * (1e-4 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("name", ["pytorch_lora_weights.bin", "adapter.pt", "adapter.ckpt", "adapter.safetensors"])
def test_a_pickle_is_refused_and_never_read(
    load: Callable[..., WanTransformer3DModel], tmp_path: Path, name: str
) -> None:
    trace, path = tmp_path / "trace", tmp_path / name
    path.write_bytes(f"cos\nmkdir\n(V{trace}\ntR.".encode())
    transformer = load()
    for given in (path, tmp_path):
        with pytest.raises(UserError, match="safetensors") as caught:
            load_adapter(transformer, given)
        assert "\n" not in str(caught.value)
    assert not trace.exists()
    read = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", read, path], check=True)
    assert trace.is_dir()
