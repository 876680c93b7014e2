"""``evaluate agreement``. Oracles: readers that agree, that share a known part, or that have nothing in common; numpy's
own correlation of centred values; then the command on the debug preset."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.rewards.analytic import make_scene, truck_path
from vggrpo.cli import main
from vggrpo.evaluation.reward_agreement import PATH, RewardAgreement, Space, group_sums, measure_agreement
from vggrpo.types import Latents, SceneGeometry

PROMPTS, MEMBERS = 200, 8


def readings(share: float) -> RewardAgreement:
    """Two readers of correlation ``share`` inside groups whose means differ wildly."""
    rng = np.random.default_rng(0)
    mean = 100.0 * rng.standard_normal((PROMPTS, 1))
    common, own = rng.standard_normal((2, PROMPTS, MEMBERS))
    first = mean + common
    second = 3.0 * mean + 2.0 * (share * common + np.sqrt(1.0 - share**2) * own)
    return RewardAgreement(latent={"reward": first}, rgb={"reward": second})


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_known_correlation_inside_groups_is_found(share: float) -> None:
    rows = {row.key: row.estimate for row in readings(share).rows()}
    agreement = rows["agreement/reward"]
    assert agreement.value == pytest.approx(share, abs=0.05)
    assert agreement.low - 0.01 <= share <= agreement.high + 0.01
    assert rows["spread/reward/latent"].value == pytest.approx(1.0, rel=0.05)
    assert rows["spread/reward/rgb"].value == pytest.approx(2.0, rel=0.05)


def test_sums_are_those_of_numpy_over_what_both_could_judge() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((2, 3, 6))
    first[0, 2] = second[0, 4] = np.nan
    second[1, 1:] = np.nan
    sums = group_sums(first, second)
    kept = [0, 1, 3, 5]
    expected = np.cov(first[0, kept], second[0, kept]) * 3
    np.testing.assert_allclose(sums[0], [expected[0, 1], expected[0, 0], expected[1, 1], 3])
    assert np.isnan(sums[1]).all()
    assert sums[2, 3] == 5


def test_each_video_is_read_once_in_each_space() -> None:
    """A camera whose length grows with the member, read rightly by both; the second reader's scenes are mirrored."""
    asked: list[tuple[int, str]] = []

    def draw(prompt: str) -> Latents:
        return Latents(tensor=torch.arange(3.0).view(3, 1, 1, 1, 1) + 10 * len(prompt))

    def read(latents: Latents, space: Space) -> SceneGeometry:
        number = int(latents.tensor.item())
        asked.append((number, space))
        return make_scene(truck_path(5, step=0.05 * (1 + number % 10), turn=0.0))

    done: list[int] = []
    agreement = measure_agreement(["a", "bb"], draw=draw, read=read, on_prompt=done.append)
    assert done == [1, 2]
    assert sorted(asked) == sorted((n, s) for n in (10, 11, 12, 20, 21, 22) for s in ("latent", "rgb"))
    np.testing.assert_allclose(agreement.latent[PATH], agreement.rgb[PATH])
    steps = agreement.latent[PATH][0]
    assert steps[2] > 1.5 * steps[1] > 1.5 * steps[0]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "agreement", "--preset", "tiny-debug", "--count", "2", "--group-size", "2"]
    assert main([*words, "--out", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "agreement.json").read_text()) == printed
    assert {"agreement/motion_smoothness", "agreement/geometry_consistency", f"agreement/{PATH}"} <= set(
        printed["rows"]
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--group-size", "1"], "give 2 to"),
        (["--count", "0"], "give 1 to"),
        (["--prompts", "nowhere.txt"], "does not exist"),
        (["--preset", "wan2.1-t2v-1.3b"], "give --prompts FILE"),
    ],
)
def test_mistakes(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    preset = [] if "--preset" in words else ["--preset", "tiny-debug"]
    assert main(["evaluate", "agreement", *preset, *words]) == 2
    assert said in capsys.readouterr().err
