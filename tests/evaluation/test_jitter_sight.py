"""``evaluate jitter``. Oracle: models that tell the truth see all of it; one that smooths loses it at its own stage."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.evaluation.test_evaluate_assets import TrueGeometry, TrueVae, Truth
from vggrpo.cli import main
from vggrpo.evaluation.asset_clips import AssetModels
from vggrpo.evaluation.jitter_sight import STAGES, JitterSight, measure_jitter_sight
from vggrpo.types import Latents, SceneGeometry, WorldClip
from vggrpo.worlds import make_clip

WORLDS = 3


class Filmed(Truth):
    """Clips by seed and jitter: seed s shaken is number s + 100."""

    def film(self, seed: int, shaken: bool) -> WorldClip:
        number = seed + 100 * shaken
        if number not in self.clips:
            self.clips[number] = make_clip(seed, num_frames=9, height=32, width=32, jitter=shaken)
        return self.clips[number]


class SmoothingLatents:
    """Φ_g that reads a camera of constant speed whatever it is given."""

    def __init__(self, geometry: TrueGeometry) -> None:
        self._geometry = geometry

    def __call__(self, latents: Latents) -> SceneGeometry:
        scene = self._geometry.scene(int(latents.tensor.item()))
        cameras = torch.eye(4).repeat(1, scene.num_frames, 1, 1)
        cameras[0, :, 0, 3] = 0.1 * torch.arange(scene.num_frames)
        return replace(scene, camera_from_world=cameras)


def measured(*, smoothing: bool) -> tuple[JitterSight, list[int]]:
    truth = Filmed()
    geometry = TrueGeometry(truth)
    models = AssetModels(
        vae=TrueVae(truth, error=0.0),
        geometry=geometry,
        latent_geometry=SmoothingLatents(geometry) if smoothing else geometry,
        judge=None,
        device=torch.device("cpu"),
    )
    done: list[int] = []
    sight = measure_jitter_sight(models, worlds=WORLDS, first_seed=0, film=truth.film, on_world=done.append)
    return sight, done


def test_the_truth_is_seen_at_every_stage() -> None:
    sight, done = measured(smoothing=False)
    assert done == [1, 2, 3]
    for stage in STAGES:
        assert sight.steady[stage].mean() > 0.99
        assert sight.shaken[stage] == pytest.approx(sight.shaken["truth"], abs=1e-6)
    assert (sight.steady["truth"] - sight.shaken["truth"]).min() > 0.15


def test_what_is_smoothed_away_is_missed_at_its_stage() -> None:
    sight, _ = measured(smoothing=True)
    rows = {row.key: row.estimate for row in sight.rows()}
    assert rows["jitter/decoded/difference"].low > 0.15
    assert rows["jitter/latents/difference"].value == pytest.approx(0.0, abs=1e-6)
    assert rows["jitter/latents/shaken"].value == pytest.approx(1.0, abs=1e-3)


def test_the_command_writes_every_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["evaluate", "jitter", "--preset", "tiny-debug", "--clips", "2", "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((out / "jitter.json").read_text()) == printed
    assert printed["rows"]["jitter/truth/difference"]["n"] == 2
    assert {key.split("/")[1] for key in printed["rows"]} == set(STAGES)


def test_options_without_a_meaning_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "jitter", "--preset", "tiny-debug", "--clips", "2", "--record"]) == 2
    assert "--record" in capsys.readouterr().err
