"""Run folders as the page reads them."""

import json

import numpy as np
import pytest

from demo.results import UnreadableRun, read_run
from tests.demo.synthetic_run import synthetic_rewards, write_run


def test_rewards_and_manifest_are_read(tmp_path):
    run = read_run(write_run(tmp_path / "run", num_frames=5, size=16), run_id="run")
    assert [trace.name for trace in run.rewards] == ["motion_smoothness", "geometry_consistency", "scene_smoothness"]
    assert run.num_frames == 5
    assert np.isnan(run.rewards[0].per_frame[0])
    assert run.rewards[1].worst_frames == (2, 1, 3)
    assert run.rewards[1].lowest_frame == 2
    assert run.guards["moving_share"] == 0.031
    assert run.seed == 7
    assert run.seconds == pytest.approx(5.5)


def test_a_reward_that_could_not_be_judged_keeps_its_reason(tmp_path):
    folder = write_run(tmp_path / "run", num_frames=5, size=16)
    rewards = synthetic_rewards(5)
    rewards["geometry_consistency"] = {"value": None, "per_frame": [None] * 5, "reason": "too few valid views"}
    (folder / "rewards.json").write_text(json.dumps(rewards))
    trace = read_run(folder, run_id="run").rewards[1]
    assert trace.value is None
    assert trace.reason == "too few valid views"
    assert trace.lowest_frame is None


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_file_is_named(tmp_path, content):
    folder = write_run(tmp_path / "run", num_frames=3, size=16)
    (folder / "rewards.json").write_text(content)
    with pytest.raises(UnreadableRun, match=r"rewards\.json"):
        read_run(folder, run_id="run")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UnreadableRun, match=r"rewards\.json is missing"):
        read_run(tmp_path, run_id="run")
