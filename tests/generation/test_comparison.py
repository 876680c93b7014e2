"""Pairs and comparisons. Oracles: single generations of the same prompts and seeds, scipy, equal sides."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from vggrpo.generation import GenerateRequest, Studio
from vggrpo.generation.batch import denoise_batch
from vggrpo.generation.comparison import (
    Comparison,
    ComparisonProgress,
    PromptSeed,
    compare_prompts,
    held_out_prompts,
    numbered,
)
from vggrpo.generation.pair import PairRequest, generate_pair
from vggrpo.policy.guidance import RewardGuidance
from vggrpo.rewards import judge
from vggrpo.runtime import run_folder
from vggrpo.runtime.errors import Cancelled, UserError
from vggrpo.worlds import FIRST_TRAINING_SEED, sample_scene, vocabulary

PROMPT = "a red sphere on a grey tiled floor, the camera orbits left"
REQUEST = GenerateRequest(prompt=PROMPT, preset="tiny-debug", seed=3)
JOBS = held_out_prompts(5, seed=11)


def compare(studio: Studio, tuned: GenerateRequest, **options: object) -> Comparison:
    """Without progress and Cancel unless given."""
    quiet = {"on_progress": lambda _: None, "should_stop": lambda: False}
    return compare_prompts(studio, JOBS, base=REQUEST, tuned=tuned, **(quiet | options))


@pytest.fixture
def adapter(make_lora: Callable[..., Path]) -> Path:
    return make_lora()


@pytest.fixture
def compared(studio: Studio, adapter: Path) -> Comparison:
    return compare(studio, replace(REQUEST, adapter=adapter), batch=2)


@pytest.mark.parametrize("kind", ["base", "adapter", "reward guidance"])
def test_a_batch_holds_the_videos_that_one_by_one_would_make(studio: Studio, adapter: Path, kind: str) -> None:
    guided = RewardGuidance() if kind == "reward guidance" else None
    template = replace(REQUEST, adapter=adapter if kind == "adapter" else None, reward_guidance=guided)
    requests = [replace(template, prompt=job.prompt, seed=job.seed) for job in JOBS[:3]]
    together = denoise_batch(studio, requests).tensor
    for index, request in enumerate(requests):
        torch.testing.assert_close(together[index : index + 1], studio.denoise(request).tensor, atol=1e-4, rtol=1e-4)
    assert not hasattr(studio.models.transformer, "peft_config")


def test_requests_of_different_kinds_are_no_batch(studio: Studio) -> None:
    with pytest.raises(ValueError, match="prompt and seed only"):
        denoise_batch(studio, [REQUEST, replace(REQUEST, guidance=3.0)])


def test_every_value_is_that_of_a_single_generation(studio: Studio, adapter: Path, compared: Comparison) -> None:
    """Second route: one prompt at a time through the studio, Φ_g and the judge."""
    for side, path in ((compared.base, None), (compared.tuned, adapter)):
        for index, job in enumerate(JOBS):
            latents = studio.denoise(replace(REQUEST, prompt=job.prompt, seed=job.seed, adapter=path))
            report = judge(studio.geometry_from_latents(latents))
            for name, term in report.terms.items():
                np.testing.assert_allclose(side.rewards[name][index], float(term.value[0]), rtol=2e-3, atol=1e-4)
            length = float(report.guards.camera_path_length[0])
            assert side.guards["camera_path_length"][index] == pytest.approx(length, rel=2e-3)


def test_the_file_holds_the_contract(compared: Comparison, tmp_path: Path) -> None:
    run_folder.write_json(tmp_path / "comparison.json", compared.to_json())
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["prompts"] == [job.prompt for job in JOBS]
    assert content["seeds"] == [11, 12, 13, 14, 15]
    names = {"motion_smoothness", "geometry_consistency", "scene_smoothness"}
    assert set(content["base"]) == set(content["tuned"]) == set(content["paired"]) == names
    for name in names:
        base, tuned = (np.array(content[side][name], dtype=float) for side in ("base", "tuned"))
        judged = np.isfinite(base) & np.isfinite(tuned)
        found = content["paired"][name]
        assert (found["n"], found["left_out"]) == (judged.sum(), len(JOBS) - judged.sum())
        if found["n"] < 2:
            assert found["low"] is None
            assert "could be judged" in found["reason"]
            continue
        expected = stats.ttest_rel(tuned[judged], base[judged]).confidence_interval(0.95)
        assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), rel=1e-4, abs=1e-7)
        assert found["low"] < found["mean"] < found["high"]
    assert content["paired"]["motion_smoothness"]["n"] == len(JOBS)
    assert set(content["guards"]["paired"]) == {"camera_path_length", "dynamic_degree", "moving_share"}


def test_equal_sides_differ_by_nothing(studio: Studio) -> None:
    judged = [found for found in compare(studio, REQUEST).rewards.values() if found.n >= 2]
    assert judged
    for found in judged:
        assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


def test_progress_counts_steps_and_shows_what_is_finished(studio: Studio, adapter: Path) -> None:
    seen: list[ComparisonProgress] = []
    final = compare(studio, replace(REQUEST, adapter=adapter, steps=3), batch=2, on_progress=seen.append)
    assert seen[-1].done == seen[-1].total == 5 * (2 + 3)
    assert [report.done for report in seen] == sorted(report.done for report in seen)
    partial = [report.partial for report in seen if report.partial]
    assert [len(one.jobs) for one in partial] == [2, 4, 5]
    np.testing.assert_array_equal(
        partial[0].tuned.rewards["motion_smoothness"], final.tuned.rewards["motion_smoothness"][:2]
    )


def test_cancel_is_heard_within_a_step(studio: Studio) -> None:
    seen: list[ComparisonProgress] = []
    with pytest.raises(Cancelled):
        compare(studio, REQUEST, on_progress=seen.append, should_stop=lambda: bool(seen))
    assert len(seen) == 1


@pytest.mark.parametrize("bad", ["adapter", "prompt", "none"])
def test_mistakes_are_said_before_the_first_step(studio: Studio, tmp_path: Path, bad: str) -> None:
    (tmp_path / "adapter.safetensors").write_bytes(b"no tensors")
    tuned = replace(REQUEST, adapter=tmp_path / "adapter.safetensors") if bad == "adapter" else REQUEST
    jobs = {"adapter": JOBS, "prompt": numbered([PROMPT, "zzz"], seed=0), "none": ()}[bad]
    message = {"adapter": "adapter", "prompt": "knows no word", "none": "no prompt"}[bad]
    seen: list[ComparisonProgress] = []
    with pytest.raises(UserError, match=message):
        compare_prompts(studio, jobs, base=REQUEST, tuned=tuned, on_progress=seen.append, should_stop=lambda: False)
    assert seen == []


def test_held_out_prompts_are_captions_that_no_training_drew() -> None:
    assert [job.prompt for job in JOBS] == [sample_scene(seed).caption for seed in range(11, 16)]
    assert all(job.seed < FIRST_TRAINING_SEED for job in JOBS)
    assert all(vocabulary.unknown_words(job.prompt) == [] for job in JOBS)
    assert numbered(["a", "b"], seed=5) == (PromptSeed(prompt="a", seed=5), PromptSeed(prompt="b", seed=6))
    for count, seed in ((0, 0), (10**6, 0), (2, FIRST_TRAINING_SEED - 1), (1, -1)):
        with pytest.raises(UserError, match="give"):
            held_out_prompts(count, seed=seed)


def pair_of(adapter: Path | None) -> PairRequest:
    return PairRequest(
        base=REQUEST, tuned=replace(REQUEST, adapter=adapter), base_label="Base model", tuned_label="my adapter"
    )


def test_a_pair_is_the_two_runs_and_what_they_are(studio: Studio, adapter: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    out = tmp_path / "pair"
    pair = generate_pair(
        studio, pair_of(adapter), out, on_progress=lambda side, _: seen.append(side), should_stop=lambda: False
    )
    assert sorted(path.name for path in out.iterdir()) == ["base", "pair.json", "tuned"]
    content = json.loads((out / "pair.json").read_text())
    assert content == {
        "prompt": PROMPT,
        "seed": 3,
        "preset": "tiny-debug",
        "base": {"label": "Base model"},
        "tuned": {"label": "my adapter"},
    }
    assert list(dict.fromkeys(seen)) == ["base", "tuned"]
    for side, path in (("base", None), ("tuned", adapter)):
        expected = studio.denoise(replace(REQUEST, adapter=path)).tensor
        torch.testing.assert_close(pair.run(side).latents().latents.tensor, expected.cpu())
    assert pair.run("tuned").manifest()["adapter"] == adapter.name
    generate_pair(studio, pair_of(None), out, on_progress=lambda *_: None, should_stop=lambda: False)
    assert pair.run("tuned").manifest()["adapter"] is None  # an earlier pair is replaced


@pytest.mark.parametrize("when", ["base", "tuned"])
def test_a_cancelled_pair_leaves_nothing(studio: Studio, tmp_path: Path, when: str) -> None:
    seen: list[str] = []
    with pytest.raises(Cancelled):
        generate_pair(
            studio,
            pair_of(None),
            tmp_path / "runs" / "pair",
            on_progress=lambda side, _: seen.append(side),
            should_stop=lambda: when in seen,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_adapter_is_said_before_the_first_run(studio: Studio, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(b"no tensors")
    seen: list[str] = []
    with pytest.raises(UserError, match="adapter"):
        generate_pair(
            studio,
            pair_of(path),
            tmp_path / "runs" / "pair",
            on_progress=lambda side, _: seen.append(side),
            should_stop=lambda: False,
        )
    assert seen == []
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.safetensors"]


def test_sides_of_different_prompts_or_seeds_are_no_pair() -> None:
    for other in ({"seed": 4}, {"prompt": "a blue cube"}):
        with pytest.raises(ValueError, match="share"):
            PairRequest(base=REQUEST, tuned=replace(REQUEST, **other), base_label="a", tuned_label="b")
