"""The released models' presets from the command line, on small random folders of their kind: prompt to fine-tune.

Oracles: a second route to the same numbers (score of what generate wrote, rewards of decoded video), the replay's ratio
of exactly 1, and one clear line for whatever is wrong with a folder.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.real_models import (
    WAN21,
    WAN21_1_3B,
    WAN22,
    WAN22_TI2V_5B,
    write_geometry,
    write_latent_geometry,
    write_wan21,
    write_wan22,
)
from vggrpo.runtime.run_folder import RunFolder

PROMPT = "a red cube on a grey striped floor, the camera orbits left"
KINDS = {"wan21": (WAN21, write_wan21, WAN21_1_3B), "wan22": (WAN22, write_wan22, WAN22_TI2V_5B)}

Folders = dict[str, Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("models")
    made = {"geometry": write_geometry(root / "geometry")}
    for name, (_, write, sizes) in KINDS.items():
        made[name] = write(root / name)
        made[f"{name}-lgm"] = write_latent_geometry(root / f"{name}-lgm", geometry=made["geometry"], sizes=sizes)
    return made


def options(folders: Folders, name: str, *, lgm: bool = True) -> list[object]:
    """Everything that says which models and which size."""
    kind = KINDS[name][0]
    size = [word for side in ("height", "width", "frames") for word in (f"--{side}", kind[side])]
    weights = ["--model-folder", folders[name], "--geometry-weights", folders["geometry"]]
    weights += ["--latent-geometry", folders[f"{name}-lgm"]] if lgm else []
    return ["--preset", kind["preset"], *weights, *size]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not of the video's shape: its middle is taken."""
    file = tmp_path_factory.mktemp("picture") / "first.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (150, 190, 3), dtype=np.uint8)).save(file)
    return file


def rewards_of(folder: Path) -> dict[str, object]:
    return RunFolder(path=folder).rewards()


@pytest.mark.slow
def test_from_a_prompt_to_a_fine_tuned_model(run: Callable, folders: Folders, tmp_path: Path) -> None:
    """generate → Φ_g → rewards → one GRPO update → generate with what came out."""
    chosen = options(folders, "wan21")
    made, tuned = tmp_path / "made", tmp_path / "tuned"
    drawn = run("generate", *chosen, "--prompt", PROMPT, "--steps", 2, "--out", made, "--json")
    assert drawn.code == 0, drawn.err
    assert "is not the released wan2.1-t2v-1.3b: num_layers is 3, not 30" in drawn.err
    assert "Any4D: code" in drawn.err
    manifest = RunFolder(path=made).manifest()
    assert (manifest["height"], manifest["width"], manifest["num_frames"], manifest["fps"]) == (64, 96, 9, 16)
    geometry = np.load(made / "geometry.npz")
    assert geometry["depth"].shape == (9, 56, 84), "7/8 of the video's pixels: patches of 14"
    training = ("--group-size", 3, "--groups", 1, "--steps", 3, "--window-size", 1, "--window-end", 2)
    small = ("--lora-rank", 4, "--evaluate-every", 0, "--sample-every", 0, "--motion-guard", 0)
    weights = ("--weights.geometry-consistency", 0, "--training-captions", 2)
    trained = run("train", *chosen, *training, *small, *weights, "--iterations", 1, "--out", tuned, "--json")
    assert trained.code == 0, trained.err
    metrics = json.loads(trained.out.splitlines()[-1])["last_metrics"]
    assert metrics["update/applied"] == 1.0
    assert metrics["ratio/on_policy_abs_dev_max"] <= 1e-5
    assert metrics["grad_norm"] > 0.0
    adapter = load_file(tuned / "adapter" / "pytorch_lora_weights.safetensors")
    assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)
    after = run(
        *("generate", *chosen, "--prompt", PROMPT, "--steps", 2, "--adapter", tuned / "adapter"),
        *("--out", tmp_path / "after"),
    )
    assert after.code == 0, after.err
    before, moved = (load_file(folder / "latents.safetensors")["latents"] for folder in (made, tmp_path / "after"))
    assert 0 < (before - moved).abs().max() < 1, "one update is a small step"


def test_a_first_frame_and_both_ways_to_rewards(run: Callable, folders: Folders, picture: Path, tmp_path: Path) -> None:
    """What generate wrote is scored again, from its latents, and from its latents decoded: the same numbers."""
    chosen = options(folders, "wan22")
    for space in ("latent", "rgb"):
        made, scored = tmp_path / space, tmp_path / f"{space}-again"
        drawn = run(
            *("generate", *chosen, "--prompt", PROMPT, "--steps", 2, "--first-frame", picture),
            *("--reward-space", space, "--out", made),
        )
        assert drawn.code == 0, drawn.err
        again = run(
            *("score", *chosen, "--latents", made / "latents.safetensors", "--reward-space", space, "--out", scored)
        )
        assert again.code == 0, again.err
        assert rewards_of(scored) == rewards_of(made)
    assert rewards_of(tmp_path / "rgb") != rewards_of(tmp_path / "latent")
    manifest = RunFolder(path=tmp_path / "rgb").manifest()
    assert (manifest["geometry"], manifest["first_frame"]) == ("video", "first.png")


def test_without_a_trained_latent_geometry_model(run: Callable, folders: Folders, tmp_path: Path) -> None:
    """One line says how to make one; decoded video needs none."""
    chosen = options(folders, "wan22", lgm=False)
    refused = run("generate", *chosen, "--prompt", PROMPT, "--steps", 1, "--out", tmp_path / "run")
    assert refused.code == 2
    last = refused.err.splitlines()[-1]
    assert "train-lgm --preset wan2.2-ti2v-5b" in last
    assert "--reward-space rgb" in last
    assert list(tmp_path.iterdir()) == []
    shown = run(
        "generate", *chosen, "--prompt", PROMPT, "--steps", 1, "--reward-space", "rgb", "--out", tmp_path / "run"
    )
    assert shown.code == 0, shown.err


def complaint(run: Callable, tmp_path: Path, *arguments: object) -> str:
    """The last line of a refused generation, which left nothing behind."""
    shown = run("generate", "--prompt", PROMPT, "--out", tmp_path / "out" / "run", *arguments)
    assert shown.code == 2, shown.err
    assert not (tmp_path / "out").exists()
    return shown.err.splitlines()[-1]


def test_weights_of_another_model(run: Callable, folders: Folders, tmp_path: Path) -> None:
    wrong = ["--preset", "wan2.1-t2v-1.3b", "--model-folder", folders["wan22"]]
    assert "holds another model: its VAE makes 48 channels" in complaint(run, tmp_path, *wrong)
    other = options(folders, "wan21", lgm=False)
    line = complaint(run, tmp_path, *other, "--latent-geometry", folders["wan22-lgm"])
    assert "reads latents of 48 channels, wan2.1-t2v-1.3b makes 16" in line
    line = complaint(run, tmp_path, *other, "--latent-geometry", folders["wan21-lgm"], "--geometry", "vggt")
    assert "--geometry any4d" in line


def test_a_truncated_shard(run: Callable, folders: Folders, tmp_path: Path) -> None:
    broken = shutil.copytree(folders["wan21"], tmp_path / "broken")
    shard = broken / "transformer" / "diffusion_pytorch_model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    line = complaint(run, tmp_path, "--preset", "wan2.1-t2v-1.3b", "--model-folder", broken)
    assert f"{shard} is truncated or damaged" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--height", 100), "--height is 100: wan2.1-t2v-1.3b needs a multiple of 16, for example 96"),
        (("--width", 0), "--width is 0"),
        (("--frames", 20), "--frames is 20: wan2.1-t2v-1.3b needs 4 n + 1 frames, for example 21"),
        (("--model-folder", "nowhere"), "nowhere does not exist"),
        (("--latent-geometry", "nowhere"), "nowhere does not exist"),
        (("--geometry", "anyd4", "--model-folder", "."), "did you mean 'any4d'?"),
        (("--offline",), "Wan-AI/Wan2.1-T2V-1.3B-Diffusers is not, or not wholly, in the local cache"),
        ((), "Wan-AI/Wan2.1-T2V-1.3B-Diffusers (about 29 GB) are not in the local cache and the Hub cannot be reached"),
    ],
)
def test_what_cannot_be(run: Callable, tmp_path: Path, arguments: tuple[object, ...], words: str) -> None:
    """The last two: tests run without a network, as many machines do."""
    assert words in complaint(run, tmp_path, "--preset", "wan2.1-t2v-1.3b", *arguments)


def test_sizes_and_pictures_that_a_preset_does_not_take(run: Callable, picture: Path, tmp_path: Path) -> None:
    assert "draws nothing else" in complaint(run, tmp_path, "--preset", "tiny", "--height", 64)
    line = complaint(run, tmp_path, "--preset", "wan2.1-t2v-1.3b", "--first-frame", picture)
    assert "makes video from text alone" in line
    assert "wan2.2-ti2v-5b" in line
    tiny = tmp_path / "tiny.png"
    Image.new("RGB", (8, 8)).save(tiny)
    assert "8 × 8 pixels; give at least 16" in complaint(run, tmp_path, "--preset", "tiny-debug", "--first-frame", tiny)
