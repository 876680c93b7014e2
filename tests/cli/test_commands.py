"""What commands leave and print, on the debug preset: its models are the real classes with random weights."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.rewards.analytic import make_scene
from vggrpo.cli.examples import EXAMPLES, thin_geometry
from vggrpo.evaluation.results import read_result
from vggrpo.geometry.projection import world_points_from_depth
from vggrpo.presets import get_preset
from vggrpo.rewards import judge
from vggrpo.runtime import run_folder
from vggrpo.runtime.errors import Cancelled
from vggrpo.types import ClipGeometry
from vggrpo.worlds import vocabulary

PROMPT = "a red sphere and a blue cube on a grey checkered floor, the camera orbits left"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the debug preset, made by a process of its own as a person would."""
    out = tmp_path_factory.mktemp("cli") / "run"
    command = [sys.executable, "-m", "vggrpo", "generate", "--prompt", PROMPT, "--preset", "tiny-debug", "--json"]
    ended = subprocess.run([*command, "--out", str(out)], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["out"] == str(out)
    assert result["rewards"] == json.loads((out / "rewards.json").read_text())
    assert "Warning" not in ended.stderr
    return out


def test_generate_leaves_the_whole_run_folder(generated: Path) -> None:
    names = {path.name for path in generated.iterdir()}
    assert names == {
        "error_maps.npz",
        "geometry.npz",
        "latents.safetensors",
        "manifest.json",
        "rewards.json",
        "scene.viser",
        "video.mp4",
    }
    manifest = json.loads((generated / "manifest.json").read_text())
    assert set(manifest["files"]) == names
    assert (manifest["prompt"], manifest["seed"], manifest["preset"]) == (PROMPT, 0, "tiny-debug")
    assert [path.name for path in generated.parent.iterdir()] == ["run"]


def test_the_same_seed_gives_the_same_files_and_another_one_others(
    run: Callable, generated: Path, tmp_path: Path
) -> None:
    for seed in (0, 1):
        options = ("--prompt", PROMPT, "--preset", "tiny-debug", "--seed", seed, "--out", tmp_path / str(seed))
        assert run("generate", *options).code == 0
    for name in ("video.mp4", "latents.safetensors", "geometry.npz", "rewards.json", "scene.viser", "error_maps.npz"):
        assert (tmp_path / "0" / name).read_bytes() == (generated / name).read_bytes(), name
    assert (tmp_path / "1" / "video.mp4").read_bytes() != (generated / "video.mp4").read_bytes()


def test_its_geometry_and_latents_score_as_it_did(run: Callable, generated: Path, tmp_path: Path) -> None:
    shown = run("score", "--geometry", generated / "geometry.npz", "--out", tmp_path / "g", "--json")
    assert shown.code == 0
    rewards = json.loads((generated / "rewards.json").read_text())
    assert json.loads(shown.out.splitlines()[-1])["rewards"] == rewards
    options = ("--latents", generated / "latents.safetensors", "--preset", "tiny-debug", "--out", tmp_path / "z")
    assert run("score", *options).code == 0
    assert json.loads((tmp_path / "z" / "rewards.json").read_text()) == rewards
    assert (tmp_path / "z" / "geometry.npz").read_bytes() == (generated / "geometry.npz").read_bytes()


def test_a_video_of_another_size_is_scored_with_a_note(run: Callable, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (12, 48, 96, 3), dtype=np.uint8)
    run_folder.write_video(tmp_path / "v.mp4", frames, fps=8)
    shown = run("score", "--video", tmp_path / "v.mp4", "--preset", "tiny-debug", "--out", tmp_path / "out")
    assert shown.code == 0
    assert "96 × 48 cropped to 48 × 48, resized to 64 × 64" in shown.err
    assert "motion smoothness" in shown.out


def test_ctrl_c_leaves_nothing_and_says_so(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vggrpo.generation.studio.judge", interrupted)
    options = ("--prompt", PROMPT, "--preset", "tiny-debug", "--out", tmp_path / "run")
    shown = run("generate", *options)
    assert shown.code == 130
    assert shown.err.splitlines()[-1].startswith("interrupted")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("vggrpo.generation.studio.judge", _raise_cancelled)
    assert run("generate", *options).code == 130


def _raise_cancelled(*_: object, **__: object) -> None:
    raise Cancelled


def test_sigterm_leaves_nothing(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminated(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("vggrpo.generation.studio.judge", terminated)
    shown = run("generate", "--prompt", PROMPT, "--preset", "tiny-debug", "--out", tmp_path / "run")
    assert shown.code == 143
    assert shown.err.splitlines()[-1] == "stopped: nothing half-written was left."
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_full_disk_is_one_line(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "video.mp4")

    monkeypatch.setattr("vggrpo.runtime.run_folder.write_video", full)
    shown = run("generate", "--prompt", PROMPT, "--preset", "tiny-debug", "--out", tmp_path / "run")
    assert shown.code == 1
    assert "error: video.mp4: No space left on device" in shown.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_bench_times_every_phase_cold_and_warm(run: Callable) -> None:
    shown = run("bench", "generate", "--preset", "tiny-debug", "--repeats", "1", "--json")
    result = json.loads(shown.out.splitlines()[-1])
    phases = {"text", "denoise", "decode", "geometry", "rewards", "recording", "total"}
    assert set(result["warm"]) == phases
    assert set(result["cold"]) == phases | {"import", "load"}
    assert result["warm"]["total"] == pytest.approx(sum(result["warm"].values()) / 2, abs=0.01)


def test_bench_reward_measures_both_routes_on_the_same_latents(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vggrpo.evaluation.results.RESULTS", tmp_path)
    options = ("--preset", "tiny-debug", "--videos", 2, "--steps", 1, "--repeats", 1)
    shown = run("bench", "reward", *options, "--record", "--json")
    result = json.loads(shown.out.splitlines()[-1])
    recorded = read_result(tmp_path / "cost.json", kind="cost")
    assert recorded.content == result
    assert recorded.provenance.command == (
        "python -m vggrpo bench reward --preset tiny-debug --steps 1 --repeats 1 --videos 2 --record"
    )
    latent, rgb = result["latent"], result["rgb"]
    assert set(latent["phases"]) == {"geometry", "judge"}
    assert set(rgb["phases"]) == {"decode", "geometry", "judge"}
    assert set(latent["rewards"]) == set(rgb["rewards"]) >= {"motion_smoothness", "camera_path_length"}
    for route in (latent, rgb):
        assert route["seconds"] == pytest.approx(sum(route["phases"].values()), abs=1e-3)
        assert route["peak_mb"] == pytest.approx(route["weights_mb"] + route["tensors_mb"], abs=0.11)
        assert route["tensors_mb"] > 0
    assert result["ratio"]["seconds"] == pytest.approx(latent["seconds"] / rgb["seconds"], rel=0.01)
    processor = latent["processor_seconds"] / rgb["processor_seconds"]
    assert result["ratio"]["processor_seconds"] == pytest.approx(processor, rel=0.01)
    assert result["ratio"]["peak_mb"] == pytest.approx(latent["peak_mb"] / rgb["peak_mb"], rel=0.01)


def test_guidance_is_reported_in_one_line(run: Callable, tmp_path: Path) -> None:
    """The debug preset sees no scene to judge, and the line says so."""
    options = ("--prompt", PROMPT, "--preset", "tiny-debug", "--out", tmp_path / "run")
    shown = run("generate", *options, "--reward-guidance", 5, "--reward-guidance-every", 1, "--json")
    assert shown.code == 0
    assert "guiding reward – without, – with guidance (0 steps guided, 2 without a usable gradient)" in shown.err
    entry = json.loads(shown.out.splitlines()[-1])["reward_guidance"]
    assert (entry["scale"], entry["every"]) == (5.0, 1)
    assert entry == json.loads((tmp_path / "run" / "manifest.json").read_text())["reward_guidance"]


def test_presets_are_listed_without_loading_anything_heavy() -> None:
    program = (
        "import sys; from vggrpo.cli import main\n"
        "assert main(['presets', '--json']) == 0; assert main(['--help']) == 0\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'av', 'open3d'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == "[]", ended.stderr
    assert set(json.loads(ended.stdout.splitlines()[0])["presets"]) >= {"tiny", "tiny-debug"}


@pytest.mark.parametrize(
    "command",
    ["generate", "score", "presets", "train-lgm", "bench", "examples"]
    + [f"pretrain {stage}" for stage in ("tokenizer", "vae", "video", "geometry", "ship")],
)
def test_every_command_has_help(run: Callable, command: str) -> None:
    shown = run(*command.split(), "--help")
    assert shown.code == 0
    assert "--json" in shown.out


def test_examples_speak_the_models_language_and_have_their_own_names() -> None:
    assert len(EXAMPLES) >= 8
    assert len({example.name for example in EXAMPLES}) == len(EXAMPLES)
    assert [example.name for example in EXAMPLES] == sorted(example.name for example in EXAMPLES)
    for example in EXAMPLES:
        assert vocabulary.unknown_words(example.prompt) == []


def test_an_example_is_a_run_with_a_coarser_geometry(run: Callable, tmp_path: Path) -> None:
    options = ("--preset", "tiny-debug", "--only", EXAMPLES[0].name, "--out", tmp_path)
    assert run("examples", *options).code == 0
    example = run_folder.RunFolder(path=tmp_path / EXAMPLES[0].name)
    preset = get_preset("tiny-debug")
    assert example.geometry().depth.shape == (preset.num_frames, preset.height // 2, preset.width // 2)
    assert example.manifest()["prompt"] == EXAMPLES[0].prompt
    with np.load(example.file(run_folder.ERROR_MAPS), allow_pickle=False) as archive:
        assert archive["geometry_consistency"].shape == example.geometry().depth.shape


def test_thinned_geometry_is_the_same_scene() -> None:
    """Its pixels still project where they should, and it scores nearly as the full one."""
    scene = make_scene(dtype=torch.float32)
    thinned = thin_geometry(ClipGeometry.from_scene(scene)).to_scene()
    lifted = world_points_from_depth(
        thinned.depth, intrinsics=thinned.intrinsics, camera_from_world=thinned.camera_from_world
    )
    torch.testing.assert_close(lifted, thinned.points, rtol=1e-4, atol=1e-4)
    for name, term in judge(scene).terms.items():
        assert judge(thinned).terms[name].value.item() == pytest.approx(term.value.item(), abs=0.02)


def test_tokenizer_is_written(run: Callable, tmp_path: Path) -> None:
    shown = run("pretrain", "tokenizer", "--out", tmp_path / "tokenizer", "--json")
    assert json.loads(shown.out.splitlines()[-1])["words"] > 30
    assert (tmp_path / "tokenizer" / "tokenizer.json").is_file()
