"""Corrected Fréchet distances. Oracles: Gaussians whose distance is known, which intervals must hold and which the
plain distance misses; ``frechet_distance`` for what is corrected."""

import numpy as np
import pytest

from vggrpo.evaluation.contest.frechet_bootstrap import FEWEST, bootstrap_distances, too_few
from vggrpo.evaluation.frechet import frechet_distance

FEATURES = 8
SCALES = 1.0 / (1.0 + np.arange(FEATURES))
FRAMES = 6


def clips(generator: np.random.Generator, count: int, *, shift: float = 0.0) -> list[np.ndarray]:
    """Frames of a clip hardly differ: nearly all variance lies between clips. ``shift`` along the first axis."""
    between = 0.9 * generator.normal(size=(count, 1, FEATURES))
    within = np.sqrt(1 - 0.81) * generator.normal(size=(count, FRAMES, FEATURES))
    moved = (between + within) * SCALES
    moved[..., 0] += shift
    return list(moved)


def test_what_is_corrected_is_the_plain_distance() -> None:
    generator = np.random.default_rng(0)
    true, drawn = clips(generator, 40), clips(generator, 40, shift=0.5)
    found = bootstrap_distances({"base": drawn}, true=true)
    assert found.directions == FEATURES
    assert found.explained == pytest.approx(1.0)
    assert found.values[0] == pytest.approx(frechet_distance(np.concatenate(drawn), second=np.concatenate(true)))


def test_the_truth_lies_in_the_interval_and_far_from_the_plain_distance() -> None:
    """d² = shift²: 0.25 for base, 0.36 for the other, 44 % more. Few clips add as much to both."""
    held, values, plain = 0, [], []
    for seed in range(6):
        generator = np.random.default_rng(seed)
        true = clips(generator, 40)
        sides = {"base": clips(generator, 40, shift=0.5), "tuned": clips(generator, 40, shift=0.6)}
        found = bootstrap_distances(sides, true=true)
        change = found.change("tuned", base="base").relative
        values.append(found.distance("base").value)
        plain.append(found.values[0])
        held += not change.is_measured or change.low <= 0.44 <= change.high
    assert held >= 5
    assert np.mean(values) == pytest.approx(0.25, abs=0.05)
    assert np.mean(plain) > 0.33


def test_contestants_with_the_same_videos_do_not_differ() -> None:
    generator = np.random.default_rng(1)
    true, drawn = clips(generator, 32), clips(generator, 32, shift=2.0)
    change = bootstrap_distances({"base": drawn, "same": drawn}, true=true).change("same", base="base")
    assert (change.relative.value, change.relative.low, change.relative.high) == (0.0, 0.0, 0.0)
    assert change.win_rate is None


def test_a_base_that_is_not_clear_of_the_true_clips_has_no_relative_change() -> None:
    generator = np.random.default_rng(2)
    sides = {"base": clips(generator, 16), "tuned": clips(generator, 16, shift=1.0)}
    change = bootstrap_distances(sides, true=clips(generator, 16)).change("tuned", base="base")
    assert not change.relative.is_measured
    assert "more clips" in str(change.relative.reason)
    assert change.difference.low > 0.0


def test_directions_are_no_more_than_the_clips_can_carry() -> None:
    generator = np.random.default_rng(3)
    found = bootstrap_distances({"base": clips(generator, 12, shift=1.0)}, true=clips(generator, 30))
    assert found.directions == 3
    assert 0.5 < found.explained < 1.0


def test_too_few_and_no_pairs() -> None:
    generator = np.random.default_rng(4)
    assert too_few(prompts=FEWEST, true_clips=FEWEST) is None
    assert "takes 4" in str(too_few(prompts=3, true_clips=9))
    with pytest.raises(ValueError, match="takes 4"):
        bootstrap_distances({"base": clips(generator, 3)}, true=clips(generator, 9))
    with pytest.raises(ValueError, match="no pairs"):
        bootstrap_distances({"base": clips(generator, 8), "other": clips(generator, 9)}, true=clips(generator, 9))
