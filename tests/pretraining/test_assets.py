"""What ``pretrain ship`` does with a fine-tune's adapter and with configurations. Oracle: the run's own files."""

import json
from pathlib import Path

from vggrpo.pretraining.assets import forget_paths, ship_adapter


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
    entry = ship_adapter(write_run(tmp_path / "tuned"), assets)["tuned"]
    assert (assets / "adapters" / "vggrpo-tiny" / "pytorch_lora_weights.safetensors").read_bytes() == b"weights"
    assert isinstance(entry, dict)
    assert "--iterations 6 --seed 7" in entry["command"]
    assert (entry["steps"], entry["seconds"]) == (6, 60.0)
    assert entry["held_out"] == {"eval/score": 0.25}


def test_without_a_fine_tune_an_adapter_of_an_older_base_goes(tmp_path: Path) -> None:
    old = tmp_path / "assets" / "adapters" / "old"
    old.mkdir(parents=True)
    assert ship_adapter(tmp_path / "nothing", tmp_path / "assets") == {}
    assert not old.exists()


def test_paths_are_forgotten_and_nothing_else(tmp_path: Path) -> None:
    told, silent = tmp_path / "a" / "config.json", tmp_path / "b" / "config.json"
    for path, content in ((told, {"_name_or_path": "somewhere", "z_dim": 16}), (silent, {"z_dim": 16})):
        path.parent.mkdir()
        path.write_text(json.dumps(content))
    before = silent.read_bytes()
    forget_paths(tmp_path)
    assert json.loads(told.read_text()) == {"_name_or_path": "", "z_dim": 16}
    assert silent.read_bytes() == before
