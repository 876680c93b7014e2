"""Figures, payload and sentences of a pair and of many prompts, from files made here. No model, no browser."""

import json
from pathlib import Path

import numpy as np
import pytest

from demo.pair_results import ComparisonResult, PairResult, read_comparison, read_pair
from demo.results import UnreadableRun
from demo.viewers.compare_stage import format_change, pair_payload
from demo.viewers.curves import pair_figure
from demo.viewers.distribution import comparison_html, sentence
from demo.viewers.stage import prepare
from tests.demo.synthetic_run import write_run
from vggrpo.evaluation import paired_difference


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> PairResult:
    """Nine frames; the tuned camera is steadier by 0.02 at every frame but frame 4, where it is by 0.1."""
    folder = tmp_path_factory.mktemp("pair")
    for side in ("base", "tuned"):
        write_run(folder / side, num_frames=9, size=24)
    path = folder / "tuned" / "rewards.json"
    rewards = json.loads(path.read_text())
    motion = rewards["motion_smoothness"]
    motion["per_frame"] = [
        None if v is None else v + (0.1 if k == 4 else 0.02) for k, v in enumerate(motion["per_frame"])
    ]
    motion["value"] += 0.03
    path.write_text(json.dumps(rewards))
    (folder / "pair.json").write_text(json.dumps({"base": {"label": "Base"}, "tuned": {"label": "<i>steady"}}))
    return read_pair(folder, pair_id="p")


def test_the_figure_holds_both_curves_on_one_scale(pair: PairResult) -> None:
    figure = pair_figure(pair)
    traces = {trace["uid"]: trace for trace in figure["data"]}
    for position, (base, tuned) in enumerate(zip(pair.base.run.rewards, pair.tuned.run.rewards, strict=True)):
        for kind, trace in (("base", base), ("tuned", tuned)):
            drawn = np.array([np.nan if v is None else v for v in traces[f"{kind}-{trace.name}"]["y"]], dtype=float)
            np.testing.assert_array_equal(drawn, trace.per_frame)
        low, high = figure["layout"]["yaxis" if position == 0 else f"yaxis{position + 1}"]["range"]
        both = np.concatenate([base.per_frame, tuned.per_frame])
        assert low < np.nanmin(both)
        assert high > np.nanmax(both)
    assert sum(uid.startswith("clock-") for uid in traces) == len(pair.base.run.rewards)


def test_the_payload_pairs_values_bars_and_the_largest_gap(pair: PairResult, tmp_path: Path) -> None:
    for side in ("base", "tuned"):
        (tmp_path / side).mkdir()
    value = pair_payload(
        pair,
        base=prepare(pair.base.run, folder=tmp_path / "base"),
        tuned=prepare(pair.tuned.run, folder=tmp_path / "tuned"),
        frame=99,
    )
    assert (value["id"], value["frames"], value["frame"]) == ("p", 9, 8)
    assert [side["run"] for side in value["sides"]] == ["p.base", "p.tuned"]
    motion = next(term for term in value["terms"] if term["label"] == "Camera motion")
    assert motion["difference"] == "+0.0300"
    assert motion["perFrame"][0] == ["–", "–"]
    assert motion["shares"][0] == [None, None]
    base, tuned = pair.base.run.rewards[0].per_frame[4], pair.tuned.run.rewards[0].per_frame[4]
    assert motion["shares"][4] == pytest.approx([(base - 0.5) / 0.5, (tuned - 0.5) / 0.5])
    assert {"frame": 4, "term": "Camera"} in value["worst"]
    assert value["sides"][1]["downloads"][0]["saveAs"] == "tuned-video.mp4"


@pytest.mark.parametrize(
    ("base", "tuned", "text"),
    [(0.5, 0.75, "+0.250"), (0.75, 0.5, "−0.250"), (0.5, 0.5, "0.000"), (None, 0.5, "–"), (0.5, None, "–")],
)
def test_a_change_has_its_sign(base: float | None, tuned: float | None, text: str) -> None:
    assert format_change(base, tuned) == text


def compared(base: list[float], tuned: list[float]) -> ComparisonResult:
    """A comparison of one reward, as ``compare`` writes it."""
    found = paired_difference(np.array(base), np.array(tuned))
    ends = {name: getattr(found, name) for name in ("mean", "low", "high", "n", "left_out")}
    entry = ends if found.reason is None else ends | {"reason": found.reason}
    part = {
        "base": {"motion_smoothness": base},
        "tuned": {"motion_smoothness": tuned},
        "paired": {"motion_smoothness": entry},
    }
    content = {
        "prompts": [f"prompt <{index}>" for index in range(len(base))],
        "seeds": list(range(len(base))),
        "sides": {"base": {"label": "Base model"}, "tuned": {"label": "<i>steady"}},
        "guards": part,
    }
    return read_comparison(content | part, comparison_id="c")


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ([0.1, 0.11, 0.09, 0.1], ["Higher with &lt;i&gt;steady", "over 4 prompts", "+0.0870 to +0.113"]),
        ([-0.1, -0.11, -0.09, -0.1], ["Lower with"]),
        ([0.1, -0.1, 0.05, -0.05], ["No clear difference", "holds zero"]),
        ([0.1, 0.1, 0.11, float("nan")], ["Higher", "1 prompt could not be judged on both sides and is left out"]),
        ([0.1, float("nan"), float("nan"), float("nan")], ["Not enough to tell", "1 of 4 pairs"]),
    ],
)
def test_the_sentence_says_what_the_interval_says(gains: list[float], words: list[str]) -> None:
    base = [0.5, 0.6, 0.7, 0.8]
    result = compared(base, [value + gain for value, gain in zip(base, gains, strict=True)])
    said = sentence(result.rewards[0], tuned_label=result.tuned_label)
    assert all(word in said for word in words), said


def test_every_judged_prompt_is_a_button_and_nothing_from_files_is_markup() -> None:
    result = compared([0.5, 0.6, float("nan")], [0.6, 0.5, 0.7])
    html = comparison_html(result, download="gradio_api/file=x")
    assert html.count('class="pair"') == 2
    assert 'data-index="0"' in html
    assert "prompt &lt;1&gt; · seed 1: 0.600 → 0.500" in html
    assert "<i>steady" not in html
    assert 'download="comparison.json"' in html


def test_equal_sides_are_drawn_without_a_division_by_nothing() -> None:
    assert "NaN" not in comparison_html(compared([0.5, 0.5], [0.5, 0.5]))


def test_a_file_of_another_kind_is_refused() -> None:
    with pytest.raises(UnreadableRun, match=r"comparison\.json"):
        read_comparison({"prompts": 3}, comparison_id="c")
