"""What ``pretrain ship`` does with a fine-tune's adapter and with configurations. Oracle: the run's own files."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from vggrpo.presets import get_preset
from vggrpo.pretraining.assets import (
    JUDGES,
    forget_paths,
    require_same_latents,
    ship_adapter,
    ship_assets,
    ship_judges,
)
from vggrpo.pretraining.vae import VaeArchitecture
from vggrpo.runtime.errors import UserError


def write_run(folder: Path) -> Path:
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    (folder / "config.yaml").write_text("seed: 7\ngroup_size: 8\n")
    rows = [
        {"iteration": 0, "eval/score": 0.0},
        {"iteration": 5, "eval/score": 0.25, "reward/motion_smoothness/mean": 0.7},
        {"iteration": 6, "reward/motion_smoothness/mean": 0.8},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in (5, 6):
        checkpoint = folder / "checkpoints" / f"step-{step:06d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "state.json").write_text(json.dumps({"iteration": step, "seconds": 10.0 * step}))
    return folder


def test_an_adapter_ships_with_its_command_and_its_last_held_out_numbers(tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    entry = ship_adapter(write_run(tmp_path / "tuned"), assets, base_is_new=True)["tuned"]
    assert (assets / "adapters" / "vggrpo-tiny" / "pytorch_lora_weights.safetensors").read_bytes() == b"weights"
    assert isinstance(entry, dict)
    assert "--iterations 6 --seed 7" in entry["command"]
    assert (entry["steps"], entry["seconds"]) == (6, 60.0)
    assert entry["held_out"] == {"eval/score": 0.25}


def test_without_a_fine_tune_an_adapter_of_an_older_base_goes(tmp_path: Path) -> None:
    old = tmp_path / "assets" / "adapters" / "old"
    old.mkdir(parents=True)
    assert ship_adapter(tmp_path / "nothing", tmp_path / "assets", base_is_new=True) == {}
    assert not old.exists()


def write_vae(folder: Path, *, decoder: float) -> None:
    torch.manual_seed(0)
    model = VaeArchitecture(base_dim=8, decoder_base_dim=8).build()
    torch.nn.init.constant_(model.decoder.conv_out.bias, decoder)
    model.save_pretrained(folder)


def write_finished(folder: Path, *, source: str, content: bytes) -> None:
    """A run with a result and a checkpoint."""
    (folder / source).mkdir(parents=True)
    (folder / source / "model.safetensors").write_bytes(content)
    checkpoint = folder / "checkpoints" / "step-000009"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(json.dumps({"step": 9, "seconds": 3.5}))


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Assets with every part, an adapter and a MANIFEST; measuring is another test's."""
    assets = tmp_path / "assets"
    for name in ("tiny", "tiny-geometry", "tiny-lgm", "adapters"):
        (assets / name).mkdir(parents=True)
        (assets / name / "model.safetensors").write_bytes(b"old")
    write_vae(assets / "tiny" / "vae", decoder=0.25)
    parts = {name: {"steps": 1} for name in ("vae", "video", "geometry", "lgm", "tuned")}
    (assets / "MANIFEST.json").write_text(json.dumps({"parts": parts}))
    measured = {name: {"by": "measuring"} for name in ("vae", "video", "geometry", "lgm")}
    monkeypatch.setattr("vggrpo.pretraining.assets.measure_assets", lambda _assets, *, clips: measured)
    return assets


def decoder_bias(folder: Path) -> float:
    model = AutoencoderKLWan.from_pretrained(folder)
    return float(model.decoder.conv_out.bias.detach()[0])


def test_what_has_no_new_run_stays_as_it_ships(tmp_path: Path, shipped: Path) -> None:
    runs = tmp_path / "runs"
    write_finished(runs / "geometry", source="model", content=b"new")
    parts = ship_assets(runs, shipped, clips=1)["parts"]
    assert isinstance(parts, dict)
    assert (shipped / "tiny-geometry" / "model.safetensors").read_bytes() == b"new"
    assert (shipped / "tiny-lgm" / "model.safetensors").read_bytes() == b"old"
    assert (shipped / "adapters" / "model.safetensors").read_bytes() == b"old"
    assert decoder_bias(shipped / "tiny" / "vae") == 0.25
    assert parts["geometry"]["steps"] == 9
    assert parts["lgm"] == {"steps": 1, "held_out": {"by": "measuring"}}
    assert parts["tuned"] == {"steps": 1}


def test_a_new_video_model_keeps_the_shipped_decoder_and_drops_the_adapter(tmp_path: Path, shipped: Path) -> None:
    runs = tmp_path / "runs"
    write_finished(runs / "video", source="pipeline", content=b"new")
    write_vae(runs / "video" / "pipeline" / "vae", decoder=0.5)
    parts = ship_assets(runs, shipped, clips=1)["parts"]
    assert isinstance(parts, dict)
    assert (shipped / "tiny" / "model.safetensors").read_bytes() == b"new"
    assert decoder_bias(shipped / "tiny" / "vae") == 0.25
    assert (parts["vae"]["steps"], parts["video"]["steps"]) == (1, 9)
    assert "tuned" not in parts
    assert not (shipped / "adapters").exists()


def test_a_run_without_a_checkpoint_leaves_the_assets_alone(tmp_path: Path, shipped: Path) -> None:
    runs = tmp_path / "runs"
    write_finished(runs / "geometry", source="model", content=b"new")
    shutil.rmtree(runs / "geometry" / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint"):
        ship_assets(runs, shipped, clips=1)
    assert (shipped / "tiny-geometry" / "model.safetensors").read_bytes() == b"old"


def test_nothing_ships_from_no_runs(tmp_path: Path, shipped: Path) -> None:
    with pytest.raises(UserError, match="no finished run"):
        ship_assets(tmp_path / "runs", shipped, clips=1)
    shutil.rmtree(shipped / "tiny-lgm")
    write_finished(tmp_path / "runs" / "geometry", source="model", content=b"new")
    with pytest.raises(UserError, match="lgm neither was run to its end nor ships already"):
        ship_assets(tmp_path / "runs", shipped, clips=1)


def test_paths_are_forgotten_and_nothing_else(tmp_path: Path) -> None:
    told, silent = tmp_path / "a" / "config.json", tmp_path / "b" / "config.json"
    for path, content in ((told, {"_name_or_path": "somewhere", "z_dim": 16}), (silent, {"z_dim": 16})):
        path.parent.mkdir()
        path.write_text(json.dumps(content))
    before = silent.read_bytes()
    forget_paths(tmp_path)
    assert json.loads(told.read_text()) == {"_name_or_path": "", "z_dim": 16}
    assert silent.read_bytes() == before


def write_judge_run(folder: Path) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(b"judge")
    checkpoint = folder / "checkpoints" / "step-000009"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(json.dumps({"step": 9, "seconds": 3.5}))
    (folder / "judge.json").write_text(json.dumps({"held_out": {"rendered": {"recall": 0.9}}}))
    return folder


def test_a_judge_ships_with_its_command_and_stays_without_a_new_run(tmp_path: Path) -> None:
    runs, assets = tmp_path / "runs", tmp_path / "assets"
    write_judge_run(runs / "judge")
    described = ship_judges(runs, assets, clips=1)
    assert list(described) == ["judge"]
    assert (assets / "tiny-judge" / "model.safetensors").read_bytes() == b"judge"
    assert described["judge"] == {
        "command": "python -m vggrpo pretrain judge --out RUNS/judge",
        "seed": 0,
        "data": "procedural world, training seeds from 1000000",
        "steps": 9,
        "seconds": 3.5,
        "held_out": {"rendered": {"recall": 0.9}},
    }
    (assets / "MANIFEST.json").write_text(json.dumps({"parts": described}))
    assert ship_judges(tmp_path / "nothing", assets, clips=1) == described
    assert (assets / "tiny-judge" / "model.safetensors").read_bytes() == b"judge"


def test_a_judge_that_was_trained_further_says_how_it_began(tmp_path: Path) -> None:
    """From an earlier run, from weights that shipped, and from weights that nobody knows."""
    runs, assets = tmp_path / "runs", tmp_path / "assets"
    write_judge_run(runs / "first")
    write_judge_run(runs / "judge")
    config = runs / "judge" / "config.yaml"
    config.write_text(f"start_from: {runs / 'first' / 'model'}\n")
    described = ship_judges(runs, assets, clips=1)["judge"]
    assert isinstance(described, dict)
    assert described["command"] == "python -m vggrpo pretrain judge --out RUNS/judge --start-from START"
    assert described["start"]["command"] == "python -m vggrpo pretrain judge --out RUNS/first"
    assert described["start"]["steps"] == 9

    (assets / "MANIFEST.json").write_text(json.dumps({"parts": {"judge": described}}))
    config.write_text(f"start_from: {assets / 'tiny-judge'}\n")
    again = ship_judges(runs, assets, clips=1)["judge"]
    assert isinstance(again, dict)
    assert again["start"] == described

    config.write_text(f"start_from: {runs / 'first' / 'model'}\n")
    (runs / "first" / "config.yaml").write_text(f"start_from: {assets / 'tiny-judge'}\n")
    chained = ship_judges(runs, assets, clips=1)["judge"]
    assert isinstance(chained, dict)
    assert chained["start"]["start"] == described

    config.write_text(f"start_from: {assets / 'tiny-judge'}\ndecoder_only: true\n")
    part_of_it = ship_judges(runs, assets, clips=1)["judge"]
    assert isinstance(part_of_it, dict)
    assert part_of_it["command"] == f"{described['command']} --decoder-only"

    config.write_text(f"start_from: {tmp_path / 'unknown'}\n")
    with pytest.raises(UserError, match="nobody knows"):
        ship_judges(runs, assets, clips=1)


def test_a_judge_of_unknown_making_does_not_ship(tmp_path: Path) -> None:
    (tmp_path / "assets" / "tiny-judge").mkdir(parents=True)
    with pytest.raises(UserError, match="pretrain judge"):
        ship_judges(tmp_path / "runs", tmp_path / "assets", clips=1)


def test_the_geometry_judge_is_described_by_its_own_worlds_and_seed() -> None:
    judge = next(part for part in JUDGES if part.run == "geometry-judge")
    assert "--judge" in judge.command
    assert (judge.seed, judge.data) == (1, "procedural world, 1200 seeds from 1010000")
    folders = get_preset("tiny").folders
    assert folders is not None
    assert {part.target for part in JUDGES} == {folders.geometry_judge.name, folders.object_judge.name}


def test_only_a_vae_of_the_same_latents_ships_under_a_video_model(tmp_path: Path) -> None:
    """A decoder may differ; one bit of the encoder, or of the statistics, may not."""
    torch.manual_seed(0)
    model = VaeArchitecture(base_dim=8, decoder_base_dim=8).build()
    model.save_pretrained(tmp_path / "known")
    with torch.no_grad():
        model.decoder.conv_out.weight.add_(1.0)
    model.save_pretrained(tmp_path / "decoder")
    require_same_latents(tmp_path / "decoder", tmp_path / "known")
    model.register_to_config(latents_std=[2.0] * 16)
    model.save_pretrained(tmp_path / "statistics")
    model.register_to_config(latents_std=[1.0] * 16)
    with torch.no_grad():
        model.encoder.conv_out.bias[0] += 1e-3
    model.save_pretrained(tmp_path / "encoder")
    for other in ("statistics", "encoder"):
        with pytest.raises(UserError, match="other latents"):
            require_same_latents(tmp_path / other, tmp_path / "known")
