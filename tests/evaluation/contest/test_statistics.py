"""Paired statistics by prompt. Oracles: numbers by hand, simulated truths that intervals must hold, invariances."""

import numpy as np
import pytest

from vggrpo.evaluation.contest.statistics import Scores, compare, mean_of


def scores(values: list[list[float]] | np.ndarray) -> Scores:
    array = np.array(values, dtype=np.float64)
    gaps = {(int(row), int(column)): "too dark" for row, column in np.argwhere(np.isnan(array))}
    return Scores(values=array, reasons=gaps)


NAN = float("nan")


def test_numbers_by_hand() -> None:
    base = scores([[2.0, 4.0], [1.0, 1.0], [5.0, 7.0], [4.0, 4.0]])
    tuned = scores([[1.0, 3.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]])
    found = compare(tuned, rival=base, better="lower")
    # Prompt means 3, 1, 6, 4 and 2, 2, 3, 4: differences −1, 1, −3, 0.
    assert found.difference.value == pytest.approx(-0.75)
    assert found.relative.value == pytest.approx(11 / 14 - 1)
    assert found.win_rate is not None
    assert found.win_rate.value == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert found.difference.n == 4
    assert compare(tuned, rival=base, better="higher").win_rate.value == pytest.approx(1 - 2.5 / 4)  # type: ignore[union-attr]


def test_videos_are_compared_where_both_sides_were_judged_and_gaps_are_counted() -> None:
    base = scores([[1.0, 100.0], [2.0, NAN], [NAN, NAN], [3.0, 3.0]])
    tuned = scores([[0.5, NAN], [1.0, 50.0], [1.0, 1.0], [3.0, 3.0]])
    found = compare(tuned, rival=base, better="lower")
    # The 100, judged on one side only, must not count; prompt 2 is left out.
    assert found.difference.value == pytest.approx((-0.5 - 1.0 + 0.0) / 3)
    assert (found.difference.n, found.difference.left_out) == (3, 1)
    assert (base.judged, base.of) == (5, 8)
    assert base.reason_counts() == {"too dark": 3}
    assert mean_of(base).value == pytest.approx((50.5 + 2.0 + 3.0) / 3)


def test_only_keeps_values_and_reasons_of_its_prompts() -> None:
    part = scores([[1.0, NAN], [2.0, 3.0], [NAN, 4.0]]).only((2, 1))
    np.testing.assert_array_equal(part.values, [[NAN, 4.0], [2.0, 3.0]])
    assert part.reasons == {(0, 0): "too dark"}


def test_nothing_judged_is_no_number() -> None:
    found = compare(scores([[NAN], [NAN]]), rival=scores([[1.0], [2.0]]), better="lower")
    for estimate in (found.difference, found.relative, found.win_rate):
        assert estimate is not None
        assert not estimate.is_measured
        assert estimate.reason is not None


def test_a_share_of_almost_nothing_is_not_told() -> None:
    base = scores([[-1.0], [1.0], [-2.0], [2.1]])
    found = compare(scores([[0.0], [2.0], [-1.0], [3.1]]), rival=base, better="higher")
    assert found.difference.value == pytest.approx(1.0)
    assert not found.relative.is_measured
    assert "not clear of zero" in str(found.relative.reason)


def test_a_negative_measure_is_relative_to_its_size() -> None:
    base, tuned = scores([[-2.0], [-2.0]]), scores([[-1.0], [-1.0]])
    assert compare(tuned, rival=base, better="higher").relative.value == pytest.approx(0.5)


def test_other_numbers_of_videos_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        compare(scores([[1.0]]), rival=scores([[1.0, 2.0]]), better="lower")


def test_intervals_hold_the_truth_and_prompts_are_the_unit() -> None:
    """Two videos of a prompt share its effect: 40 prompts are 40 samples, not 80. Simulated truth: −0.3."""
    generator = np.random.default_rng(0)
    prompts, runs = 40, 20
    held, widths, widths_apart = 0, 0.0, 0.0
    for _ in range(runs):
        scene = generator.normal(5.0, 1.0, size=(prompts, 1))
        effect = generator.normal(-0.3, 0.8, size=(prompts, 1))
        base = scene + generator.normal(0.0, 0.2, size=(prompts, 2))
        tuned = scene + effect + generator.normal(0.0, 0.2, size=(prompts, 2))
        found = compare(scores(tuned), rival=scores(base), better="lower").difference
        held += found.low <= -0.3 <= found.high
        widths += found.high - found.low
        apart = (scores(one.reshape(-1, 1)) for one in (tuned, base))
        naive = compare(next(apart), rival=next(apart), better="lower").difference
        widths_apart += naive.high - naive.low
    assert held >= 17
    # Normal theory for 40 samples of spread √(0.8² + 2·0.2²/2), and what 80 independent ones would wrongly give.
    assert widths / runs == pytest.approx(2 * 1.96 * 0.825 / np.sqrt(prompts), rel=0.1)
    assert widths_apart / widths < 0.8


def test_pairing_takes_the_scene_out() -> None:
    generator = np.random.default_rng(1)
    scene = generator.normal(0.0, 10.0, size=(30, 1)) + 50.0
    found = compare(scores(scene + 1.0), rival=scores(scene), better="higher").difference
    assert (found.low, found.high) == (pytest.approx(1.0), pytest.approx(1.0))


def test_a_win_rate_at_the_end_is_not_certain() -> None:
    base = scores([[1.0]] * 20)
    found = compare(scores([[0.5]] * 20), rival=base, better="lower").win_rate
    assert found is not None
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.8 < found.low < 0.9  # Wilson: 20/(20 + z²) = 0.839
