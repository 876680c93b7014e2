"""What ships is what was trained: hashes, provenance, sizes that a plain git push takes, and whole example runs."""

import ast
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from transformers import UMT5EncoderModel

from vggrpo.presets import PRESETS
from vggrpo.pretraining.assets import JUDGES
from vggrpo.runtime.integrity import verify_files

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "assets"
EXAMPLES = ASSETS / "examples"
PAIRS = EXAMPLES / "pairs"
SIDES = ("base", "tuned")
RUN_FILES = {"video.mp4", "latents.safetensors", "geometry.npz", "rewards.json", "scene.viser", "manifest.json"}
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def manifest() -> dict:
    return json.loads((ASSETS / "MANIFEST.json").read_text(encoding="utf-8"))


def weights() -> list[Path]:
    """Weight files, without the examples' latents."""
    return [path for path in ASSETS.rglob("*.safetensors") if EXAMPLES not in path.parents]


def test_every_weight_is_listed_and_untouched(manifest: dict) -> None:
    assert weights()
    assert {path.relative_to(ASSETS).as_posix() for path in weights()} <= set(manifest["files"])
    verify_files(ASSETS, ASSETS / "MANIFEST.json")


def test_nothing_is_too_large_for_a_plain_push() -> None:
    large = {path.name: path.stat().st_size for path in ASSETS.rglob("*") if path.stat().st_size > 9 * MEGABYTE}
    assert large == {}
    assert sum(path.stat().st_size for path in weights()) <= 60 * MEGABYTE


def test_no_file_that_could_run_code_ships() -> None:
    assert [path for path in ASSETS.rglob("*") if path.suffix in {".pt", ".pth", ".ckpt", ".pkl", ".bin"}] == []


def test_no_configuration_tells_where_it_was_made() -> None:
    configs = [json.loads(path.read_text(encoding="utf-8")) for path in ASSETS.rglob("config.json")]
    assert configs
    assert [config["_name_or_path"] for config in configs if config.get("_name_or_path")] == []


def test_every_part_says_how_it_was_made(manifest: dict) -> None:
    judges = {part.run: (ASSETS / part.target).is_dir() for part in JUDGES}
    assert set(manifest["parts"]) - {"tuned", *judges} == {"vae", "video", "geometry", "lgm"}
    assert {name: name in manifest["parts"] for name in judges} == judges
    assert ("tuned" in manifest["parts"]) == (ASSETS / "adapters").is_dir()
    for part in manifest["parts"].values():
        assert part["command"].startswith("python -m vggrpo ")
        assert {"seed", "data", "steps", "seconds", "held_out"} <= set(part)


def test_both_geometry_models_are_measured_alike(manifest: dict) -> None:
    """Φ and Φ_g side by side, on the same held-out clips."""
    measured = [manifest["parts"][name]["held_out"] for name in ("geometry", "lgm")]
    names = {"clips", "rotation_degrees", "translation_direction_degrees", "depth_abs_rel"}
    assert all(names <= set(held_out) for held_out in measured)
    assert measured[0]["clips"] == measured[1]["clips"]


def test_the_pipeline_loads_with_stock_diffusers() -> None:
    pipeline = WanPipeline.from_pretrained(ASSETS / "tiny", dtype=torch.bfloat16, local_files_only=True)
    assert type(pipeline.vae) is AutoencoderKLWan
    assert type(pipeline.transformer) is WanTransformer3DModel
    assert type(pipeline.text_encoder) is UMT5EncoderModel
    assert pipeline.vae.config.scale_factor_spatial == 8
    assert pipeline.vae.config.z_dim == 16


def test_the_gallery_has_at_least_eight_whole_runs() -> None:
    runs = [path for path in EXAMPLES.iterdir() if path.is_dir() and path.name != PAIRS.name]
    assert len(runs) >= 8
    for run in runs:
        assert {path.name for path in run.iterdir()} >= RUN_FILES, run.name
        assert json.loads((run / "manifest.json").read_text(encoding="utf-8"))["prompt"]


def test_the_gallery_has_at_least_four_whole_pairs() -> None:
    """Base against the adapter that ships, at one prompt and noise."""
    pairs = sorted(PAIRS.iterdir())
    assert len(pairs) >= 4
    for pair in pairs:
        sides = {side: json.loads((pair / side / "manifest.json").read_text(encoding="utf-8")) for side in SIDES}
        for side in SIDES:
            # A pair's scenes are recorded when it is opened.
            kept = RUN_FILES - {"scene.viser"}
            assert {path.name for path in (pair / side).iterdir()} >= kept, f"{pair.name}/{side}"
        assert sides["base"]["prompt"] == sides["tuned"]["prompt"]
        assert sides["base"]["seed"] == sides["tuned"]["seed"]
        assert (pair / "base" / "video.mp4").read_bytes() != (pair / "tuned" / "video.mp4").read_bytes()


def test_preset_names_are_unique() -> None:
    """In the source: the mapping by name would swallow a second one."""
    tree = ast.parse((ROOT / "vggrpo" / "presets.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Preset"]
    names = [ast.literal_eval(keyword.value) for call in calls for keyword in call.keywords if keyword.arg == "name"]
    assert len(names) == len(calls) >= 2
    assert sorted(names) == sorted(PRESETS)
