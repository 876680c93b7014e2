"""``evaluate robustness``. Oracle: readers whose error at every noise level is known by construction."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.evaluation.test_evaluate_assets import TrueGeometry, TrueVae, Truth
from tests.real_models import WAN21, WAN21_1_3B, write_geometry, write_latent_geometry, write_wan21
from vggrpo.cli import main
from vggrpo.evaluation import results
from vggrpo.evaluation.asset_clips import AssetModels
from vggrpo.evaluation.robustness import ErrorKey, Robustness, measure_robustness
from vggrpo.geometry import so3
from vggrpo.types import Latents, SceneGeometry

LEVELS = (0.0, 0.25, 0.5)
SEEDS = (1, 2, 5)
DEGREES_PER_NOISE = 20.0
"""How far the false reader turns frames 1, 3, 5 … at noise of standard deviation 1."""


class NoisyVae(TrueVae):
    """Latents of 4096 numbers around the clip's seed, so that their spread tells the noise that was added."""

    def encode_normalised(self, video: Tensor) -> Latents:
        return Latents(tensor=torch.full((1, 16, 1, 16, 16), float(self.truth.recognise(video))))

    def decode_normalised(self, latents: Latents) -> Tensor:
        return self.truth.video(round(float(latents.tensor.mean()))) + self.error * float(latents.tensor.std())


class TurnedByNoise(TrueGeometry):
    """Φ_g that reads the truth, turned about the view axis in every other frame in proportion to the noise."""

    constant: float = 0.0

    def __call__(self, latents: Latents) -> SceneGeometry:
        scene = self.scene(round(float(latents.tensor.mean())))
        angle = torch.deg2rad(torch.tensor(self.constant + DEGREES_PER_NOISE * float(latents.tensor.std())))
        turn = torch.eye(4)
        turn[:3, :3] = so3.exp(torch.tensor([0.0, 0.0, 1.0]) * angle)
        cameras = scene.camera_from_world.clone()
        cameras[:, 1::2] = turn @ cameras[:, 1::2]
        return replace(scene, camera_from_world=cameras)


@cache
def measured(*, constant: float = 0.0) -> Robustness:
    """Read once, looked at by several tests."""
    truth = Truth()
    false_reader = TurnedByNoise(truth)
    false_reader.constant = constant
    models = AssetModels(
        vae=NoisyVae(truth, error=0.02),
        geometry=TrueGeometry(truth),
        latent_geometry=false_reader,
        judge=None,
        device=torch.device("cpu"),
    )
    for seed in SEEDS:
        truth.clip(seed)
    return measure_robustness(models, levels=LEVELS, seeds=SEEDS, film=truth.clip, on_clip=lambda _done: None)


def errors(found: Robustness, reader: str, against: str, measure: str = "rotation_degrees") -> np.ndarray:
    return found.errors[ErrorKey(reader=reader, against=against, measure=measure)]


def test_a_reader_that_turns_with_the_noise_is_caught_and_the_true_one_is_not() -> None:
    found = measured()
    # Of the 3 pairs of 3 frames, 2 join a turned frame with an unturned one.
    expected = 2 / 3 * DEGREES_PER_NOISE * np.array(LEVELS)
    assert errors(found, "latent", "truth").mean(axis=1) == pytest.approx(expected, rel=0.05, abs=0.02)
    assert errors(found, "decoded", "truth") == pytest.approx(np.zeros((3, 3)), abs=0.02)
    gain = found.advantage(against="truth", measure="rotation_degrees", level=2)
    assert gain.value == pytest.approx(-expected[2], rel=0.05)
    assert gain.high < 0.0


def test_a_reader_that_is_always_wrong_alike_is_steady_and_wrong() -> None:
    found = measured(constant=30.0)
    assert errors(found, "latent", "truth")[0] == pytest.approx(np.full(3, 20.0), abs=0.05)
    assert errors(found, "latent", "clean")[0] == pytest.approx(np.zeros(3), abs=0.02)
    steadiness = errors(found, "latent", "clean").mean(axis=1)
    assert steadiness == pytest.approx(2 / 3 * DEGREES_PER_NOISE * np.array(LEVELS), rel=0.05, abs=0.02)


def test_the_yardstick_is_the_camera_believed_to_stand() -> None:
    found = measured()
    rotation = Truth().clip(SEEDS[0]).geometry.camera_from_world[:, :3, :3]
    angles = [
        np.degrees(np.arccos(np.clip((np.trace(rotation[j] @ rotation[i].T) - 1) / 2, -1, 1)))
        for i in range(3)
        for j in range(i + 1, 3)
    ]
    assert found.at_rest[0] == pytest.approx(np.mean(angles), abs=0.02)


def test_the_decoded_pixels_tell_how_much_noise_that_is() -> None:
    found = measured()
    # The constant error of 0.02 σ on a range of 2, and σ is measured on 4096 numbers; the clamp takes a little off.
    assert np.sqrt(found.squared[1:].mean(axis=1)) == pytest.approx(0.01 * np.array(LEVELS[1:]), rel=0.1)
    psnr = found.to_json()["decoded_psnr"]
    assert isinstance(psnr, list)
    assert psnr[1]["value"] - psnr[2]["value"] == pytest.approx(20 * np.log10(2), abs=0.5)


@pytest.mark.parametrize("levels", [(), (0.1, 0.2), (0.0, 0.2, 0.1), (0.0, 0.0)])
def test_levels_that_do_not_rise_from_zero_are_refused(levels: tuple[float, ...]) -> None:
    truth = Truth()
    models = AssetModels(
        vae=TrueVae(truth),
        geometry=TrueGeometry(truth),
        latent_geometry=TrueGeometry(truth),
        judge=None,
        device=torch.device("cpu"),
    )
    with pytest.raises(ValueError, match="rise from 0"):
        measure_robustness(models, levels=levels, seeds=SEEDS, film=truth.clip, on_clip=lambda _done: None)


def test_the_command_records_what_the_figure_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    line = ["evaluate", "robustness", "--preset", "tiny-debug", "--clips", "2", "--seed", "3", "--levels", "0.5", "0.1"]
    assert main([*line, "--out", str(tmp_path / "out"), "--record", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    recorded = results.read_result(tmp_path / "results" / "robustness.json", kind="robustness")
    assert recorded.content == printed
    assert results.read_result(tmp_path / "out" / "robustness.json", kind="robustness") == recorded
    assert recorded.provenance.command == (
        "python -m vggrpo evaluate robustness --preset tiny-debug --clips 2 --seed 3 --levels 0.5 0.1 --record"
    )
    assert recorded.provenance.seeds == {"first_world": 3}
    assert set(recorded.provenance.weights) == {"vae", "geometry", "latent_geometry"}
    assert printed["levels"] == [0.0, 0.1, 0.5]
    assert len(printed["rows"]) == 2 * 2 * 2 * 3
    clean = [row for row in printed["rows"] if row["level"] == 0.0 and row["against"] == "clean"]
    assert [row["estimate"]["value"] for row in clean if row["measure"] == "rotation_degrees"] == [0.0, 0.0]


def test_a_released_preset_is_measured_by_the_same_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """World clips of its own size, and a Φ that reads seven eighths of the pixels."""
    geometry = write_geometry(tmp_path / "geometry")
    models = ["--model-folder", write_wan21(tmp_path / "wan"), "--geometry-weights", geometry]
    models += ["--latent-geometry", write_latent_geometry(tmp_path / "lgm", geometry=geometry, sizes=WAN21_1_3B)]
    size = [word for side in ("height", "width", "frames") for word in (f"--{side}", WAN21[side])]
    line = ["evaluate", "robustness", "--preset", WAN21["preset"], *models, *size, "--clips", 1, "--levels", 0.5]
    assert main([str(word) for word in (*line, "--json")]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    values = [row["estimate"]["value"] for row in printed["rows"] if row["measure"] == "rotation_degrees"]
    assert all(0.0 <= value <= 180.0 for value in values)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--levels", "-0.1"], "noise level of -0.1"),
        (["--levels", "nan"], "noise level of nan"),
        (["--levels", "0"], "at least one noise level above 0"),
        (["--clips", "0"], "give 1 to 4096"),
        (["--seed", "999999"], "the held-out worlds"),
    ],
)
def test_mistakes_are_one_line(options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "robustness", "--preset", "tiny-debug", *options]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert len(error.strip().splitlines()) == 1
