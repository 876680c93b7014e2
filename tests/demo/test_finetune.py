"""The Fine-tune tab without a browser: what is asked, what the trainer is told, what board and endpoints say."""

import json
import os
import sys
import time
import urllib.request
from dataclasses import asdict, fields, replace
from pathlib import Path

import gradio_client
import numpy as np
import pytest
from gradio_client.exceptions import AppError

from demo.blocks import build_page
from demo.environment import read_environment
from demo.jobs import Job, ProcessState
from demo.outcomes import Finetune, read_outcome
from demo.panels.finetune import answer_act, answer_look, estimate_html, read_input
from demo.run_store import RunStore
from demo.service import PageError, PageService
from demo.training_estimate import Cost, cost_of, duration_text, estimate_text
from demo.training_runs import History, newest_checkpoint, read_history, read_samples, read_status, tail
from demo.training_service import (
    BOUNDS,
    FLAGS,
    MOST_PROMPTS,
    REWARD_WEIGHTS,
    TrainingInput,
    TrainingService,
    read_prompts,
)
from demo.viewers.training import MOST_POINTS, board, format_small, stamp
from tests.demo.fake_studio import FakeStudio
from vggrpo.cli.main import main as run_command_line
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.defaults import training_defaults
from vggrpo.runtime.config_file import read_mapping

SCRIPT = Path(__file__).with_name("fake_training.py")
FAKE = (sys.executable, str(SCRIPT))
PROMPTS = ("a red cube on a grey checkered floor", "a blue cone on a beige tiled floor")
PATIENCE = 120.0


@pytest.fixture
def training(tmp_path, monkeypatch):
    """The service over the fake trainer; everything it started is ended."""
    monkeypatch.setattr("demo.jobs._PATROL_SECONDS", 0.02)
    store = RunStore(root=tmp_path / "runs", examples=tmp_path / "examples")
    service = TrainingService(store=store, preset="tiny-debug", program=FAKE)
    yield service
    end_all(service)


def end_all(service):
    for finetune in service.all():
        while service.find(finetune.job.job_id).outcome.is_active:
            service.stop(finetune.job.job_id)
            time.sleep(0.02)


def asked(training, **changes):
    return replace(training.defaults("tiny-debug"), **({"prompts": PROMPTS, "iterations": 4} | changes))


def wait_for(training, job, reached):
    deadline = time.monotonic() + PATIENCE
    while not reached(finetune := training.find(job)):
        assert time.monotonic() < deadline, finetune.outcome
        time.sleep(0.02)
    return finetune


def finished(training, **changes):
    job = training.start(asked(training, **changes)).job.job_id
    return wait_for(training, job, lambda finetune: finetune.outcome.state == "finished")


# --- What is asked and what the trainer is told ----------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["tiny", "tiny-debug"])
def test_defaults_are_the_trainers_own(training, preset):
    defaults, config = training.defaults(preset), training_defaults(preset)
    assert (defaults.iterations, defaults.group_size, defaults.groups) == (
        config.iterations,
        config.group_size,
        config.groups,
    )
    assert defaults.learning_rate == config.learning_rate
    assert defaults.kl_weight == config.kl_weight == 0.004  # the paper's
    assert defaults.motion_smoothness == config.weights.motion_smoothness == 1.0  # the paper's
    for name, bounds in BOUNDS.items():
        assert bounds.low <= getattr(defaults, name) <= bounds.high


def test_every_setting_reaches_the_trainer():
    """No widget without a flag, and every flag is one of the real command line's."""
    assert set(FLAGS) == {field.name for field in fields(TrainingInput)} - {"prompts"}
    known = {field.name for field in fields(GrpoConfig)}
    for name, flag in FLAGS.items():
        assert (f"weights.{name}" if flag.startswith("--weights.") else name) in known | {
            f"weights.{field.name}" for field in fields(type(GrpoConfig().weights))
        }


def test_the_trainer_is_told_what_was_asked(training):
    changes = {"scene_smoothness": 0.5, "transition": "cps", "learning_rate": 3e-5, "seed": 7, "group_size": 6}
    finetune = finished(training, **changes)
    config = json.loads((finetune.job.run / "config.yaml").read_text())
    assert config["weights.scene_smoothness"] == 0.5
    assert (config["transition"], config["learning_rate"], config["seed"], config["group_size"]) == ("cps", 3e-5, 7, 6)
    assert Path(config["prompts"]).read_text().splitlines() == list(PROMPTS)


def test_the_real_command_line_takes_the_pages_arguments(tmp_path):
    """An iteration of the real trainer as the page asks for it, and what the page makes of the files it leaves."""
    real = TrainingService(store=RunStore(root=tmp_path, examples=tmp_path), preset="tiny-debug")
    # Φ of random weights cannot judge its own consistency.
    settings = asdict(asked(real, iterations=1, geometry_consistency=0.0))
    del settings["prompts"]
    job = Job(job_id="20260101-000000-00000000", folder=tmp_path / "job", settings=settings, created=0.0)
    job.folder.mkdir()
    job.prompts.write_text("\n".join(PROMPTS))
    argv = real._command(job)
    assert argv[:4] == [sys.executable, "-m", "vggrpo", "train"]
    assert run_command_line(argv[3:]) == 0
    assert read_status(job.run).state == "finished"
    assert read_mapping(job.run / "config.yaml")["weights"]["geometry_consistency"] == 0.0
    assert newest_checkpoint(job.run) == 1
    finished = ProcessState(progress="ended", started=1.0, exit_code=0)
    shown = board(Finetune(job=job, outcome=read_outcome(job, finished)))
    json.dumps(shown, allow_nan=False)
    assert (shown["state"], shown["hasAdapter"], shown["iterations"]) == ("finished", True, [0, 1])
    assert "Camera motion" in [row["label"] for row in shown["columns"][0]["rows"]]
    assert {item["name"] for item in shown["time"]} >= {"Draw videos", "Judge", "Update"}
    assert real._command(job) == [sys.executable, "-m", "vggrpo", "train", "--out", str(job.run), "--resume"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 0}, "iterations must be 1 to"),
        ({"group_size": 1}, "group size must be 2 to"),
        ({"group_size": 100_000}, "group size must be 2 to"),
        ({"learning_rate": float("nan")}, "learning rate must be"),
        ({"seed": -1}, "seed must be 0 to"),
        (dict.fromkeys(REWARD_WEIGHTS, 0.0), "all reward weights are 0"),
        ({"transition": "--out /"}, "there is no transition"),
        ({"preset": "tinny-debug"}, "did you mean 'tiny-debug'"),
        ({"prompts": PROMPTS * MOST_PROMPTS}, "too many"),
        ({"prompts": ("a" * 401,)}, "at most 400"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(training, changes, message):
    with pytest.raises(PageError, match=message) as caught:
        training.start(asked(training, **changes))
    assert "\n" not in str(caught.value)
    assert training.all() == ()


def test_a_job_file_of_another_hand_starts_nothing(training):
    finetune = finished(training, iterations=1)
    job = finetune.job
    for name in ("process.json", "exit.json"):
        (job.folder / name).unlink()
    content = json.loads((job.folder / "job.json").read_text())
    content["settings"]["seed"] = "0; rm -rf /"
    (job.folder / "job.json").write_text(json.dumps(content))
    for path in (job.run / "checkpoints").glob("*"):
        (path / "state.json").unlink()
    with pytest.raises(PageError, match=r"job\.json is damaged"):
        training._command(training._jobs.find(job.job_id))


def test_prompts_are_lines():
    assert read_prompts("  a red cube \n\n\x00a blue\x1b cone\t\n") == ("a red cube", "a blue cone")


def test_random_prompts_are_of_the_vocabulary_and_repeatable(training):
    service = PageService(preset="tiny-debug", store=RunStore(root=Path(), examples=Path()))
    prompts = training.random_prompts(5, seed=3)
    assert len(set(prompts)) == 5
    assert prompts == training.random_prompts(5, seed=3)
    assert [service.unknown_words(prompt) for prompt in prompts] == [[]] * 5
    assert len(training.random_prompts(10**9, seed=0)) == MOST_PROMPTS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 2.5}, "iterations must be a whole number"),
        ({"learning_rate": "fast"}, "learning rate must be a number"),
        ({"seed": None}, "seed must be a number"),
        ({"groups": float("inf")}, "must be a number"),
    ],
)
def test_widget_values_become_numbers_of_the_right_kind(training, settings, message):
    with pytest.raises(PageError, match=message):
        read_input(settings, prompts=())


# --- Where training is not possible ----------------------------------------------------------------------------------


def test_a_server_can_switch_it_off(training, monkeypatch):
    switched_off = read_environment({"VGGRPO_FINETUNE": "off"})
    monkeypatch.setattr(training, "environment", switched_off)
    assert "switched off" in estimate_html(training, preset="tiny-debug", iterations=4, videos=8)
    with pytest.raises(PageError, match="switched off"):
        training.start(asked(training))


def test_strangers_see_their_own_fine_tunes_and_change_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr("demo.jobs._PATROL_SECONDS", 0.02)
    now = ["ada"]
    store = RunStore(root=tmp_path / "runs", examples=tmp_path / "examples")
    space = read_environment({"SPACE_ID": "somebody/studio"})
    training = TrainingService(
        store=store, preset="tiny-debug", environment=space, visitor=lambda: now[0], program=FAKE
    )
    job = finished(training, iterations=1).job.job_id
    assert len(job.rpartition("-")[2]) == 32
    assert [one.key for one in training.adapters()] == [job]
    now[0] = "bob"
    assert (training.all(), training.adapters()) == ((), ())
    looked = answer_look(training, job=job, seen="")
    assert (looked["list"], looked["board"]["job"], looked["board"]["isMine"]) == ([], job, False)
    assert training.adapter(job).path.is_dir()
    for action in ("stop", "resume", "remove"):
        assert "somebody else's" in answer_act(training, action=action, job=job)["error"]
    assert answer_look(training, job="", seen="")["board"] == {"job": None}
    now[0] = "ada"
    assert answer_act(training, action="remove", job=job) == {"job": ""}


def test_fine_tunes_that_ended_long_ago_go_where_not_all_are_kept_and_one_at_work_never(training):
    old, new = (finished(training, iterations=1).job for _ in range(2))
    running = training.start(asked(training, iterations=1000)).job
    wait_for(training, running.job_id, lambda finetune: finetune.outcome.state == "running")
    for job in (old, running):
        os.utime(job.folder, (0.0, 0.0))
    training.sweep()
    assert len(training.all()) == 3  # a person's own machine keeps them
    training.environment = read_environment({"SPACE_ID": "somebody/studio"})
    training.sweep()
    assert {one.job.job_id for one in training.all()} == {new.job_id, running.job_id}


def test_a_full_disk_is_said_beforehand(training, monkeypatch):
    usage = type("Usage", (), {"free": 3e6})
    monkeypatch.setattr("demo.training_service.shutil.disk_usage", lambda _path: usage)
    assert "3 MB left" in training.why_not("tiny-debug")


# --- The estimate ----------------------------------------------------------------------------------------------------


def history_of(**series):
    arrays = {name.replace("__", "/"): np.array(values, dtype=float) for name, values in series.items()}
    count = len(next(iter(arrays.values())))
    return History(iterations=np.arange(count), series=arrays)


def test_cost_counts_iterations_that_trained_and_every_second():
    nan = float("nan")
    history = history_of(time__rollout=[nan, 6.0, 10.0], time__update=[nan, 2.0, 2.0], time__evaluate=[5.0, nan, 3.0])
    cost = cost_of(history, videos=4, where="here")
    assert cost.seconds_per_video == pytest.approx((6 + 10 + 2 + 2) / 2 / 4)
    assert cost.seconds_other == pytest.approx((5 + 3) / 2)
    assert cost_of(history_of(time__evaluate=[5.0]), videos=4, where="here") is None


def test_estimate_scales_with_videos_and_iterations_and_names_its_witness():
    cost = Cost(seconds_per_video=0.5, seconds_other=1.0, memory_mb=1234.0, where="on a moon")
    text = estimate_text(cost, iterations=60, videos=16, ahead=0)
    assert text == "About 9 min (60 × 9 s), and about 1.2 GB of memory: scaled from what was measured on a moon."
    assert "waits for 2 others first" in estimate_text(cost, iterations=1, videos=1, ahead=2)
    assert "not known yet" in estimate_text(None, iterations=1, videos=1, ahead=0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (47.3, "47 s"), (600, "10 min"), (8000, "2.2 h"), (9e5, "10 days")]
)
def test_durations(seconds, text):
    assert duration_text(seconds) == text


def test_the_last_fine_tune_of_this_server_is_the_witness(training):
    assert training._witness("tiny-debug") is None
    finetune = finished(training, iterations=3, group_size=4, groups=2)
    cost = training._witness("tiny-debug")
    seconds = sum(read_history(finetune.job.run).last(f"time/{phase}") for phase in ("rollout", "reward", "update"))
    assert cost.seconds_per_video == pytest.approx(seconds / 8)
    assert "on this server in the fine-tune of" in training.estimate(preset="tiny-debug", iterations=4, videos=8)


# --- What the board is told ------------------------------------------------------------------------------------------


def test_the_board_holds_every_curve_sample_and_file(training):
    finetune = finished(training, iterations=4)
    shown = board(finetune)
    json.dumps(shown, allow_nan=False)  # what a browser can read
    rewards, policy, seconds = shown["columns"]
    assert [row["label"] for row in rewards["rows"]] == [
        "Camera motion",
        "Geometry",
        "Scene motion",
        "Camera path",
        "Not judged",
    ]
    history = read_history(finetune.job.run)
    assert rewards["rows"][0]["values"] == [format_small(v) for v in history.get("reward/motion_smoothness/mean")]
    assert rewards["rows"][0]["heldOut"][::2] == [
        format_small(v) for v in history.get("eval/motion_smoothness/mean")[::2]
    ]
    assert rewards["rows"][2]["values"] is None  # all null in the file
    assert {row["label"] for row in policy["rows"]} >= {"KL to base", "Clipped", "Ratio deviation"}
    held = next(trace for trace in rewards["figure"]["data"] if trace["name"] == "held out")
    assert held["x"] == [0, 2, 4]
    assert sum(item["share"] for item in shown["time"]) == pytest.approx(100)
    assert [[cell["step"] for cell in row["cells"]] for row in shown["samples"]] == [[None, 2, 4]] * 2
    assert [row["name"] for row in shown["samples"]] == ["a red cube", "a blue cone"]
    assert [file["name"] for file in shown["files"]] == ["adapter", "metrics", "config", "log"]
    assert shown["log"][-1].startswith("iteration 4")
    assert shown["prompts"] == list(PROMPTS)
    assert (shown["iteration"], shown["share"]) == (4, 100.0)
    assert seconds["rows"][0]["label"] == "Seconds"


def test_after_a_crash_the_log_is_what_the_process_printed(training):
    job = training.start(asked(training, prompts=("crash",))).job.job_id
    shown = board(wait_for(training, job, lambda finetune: finetune.outcome.state == "failed"))
    assert shown["log"][-1] == "RuntimeError: the transformer fell apart"
    assert "Traceback" in shown["log"][0]
    assert str(Path(__file__).parents[2]) not in "\n".join(shown["log"])


def test_long_runs_are_thinned_and_keep_their_last_iteration(training):
    finetune = finished(training, iterations=1)
    lines = [json.dumps({"iteration": i, "kl": i * 1e-6}) for i in range(2 * MOST_POINTS + 3)]
    (finetune.job.run / "metrics.jsonl").write_text("\n".join(lines))
    iterations = board(finetune)["iterations"]
    assert len(iterations) <= MOST_POINTS
    assert iterations[-1] == 2 * MOST_POINTS + 2
    assert len(set(np.diff(iterations))) == 1


def test_the_board_is_sent_again_only_when_it_changed(training):
    job = finished(training, iterations=2).job.job_id
    first = answer_look(training, job=job, seen="")
    assert first["board"]["job"] == job
    again = answer_look(training, job=job, seen=first["stamp"])
    assert "board" not in again
    assert again["isActive"] is False
    (training.find(job).job.run / "train.log").write_text("something new")
    assert answer_look(training, job=job, seen=first["stamp"])["board"]["log"] == ["something new"]


def test_an_unknown_name_shows_what_runs(training):
    assert answer_look(training, job="../../etc", seen="")["board"] == {"job": None}
    finished(training, iterations=1)
    running = training.start(asked(training, iterations=1000)).job.job_id
    waiting = training.start(asked(training)).job.job_id
    wait_for(training, running, lambda finetune: finetune.outcome.iteration > 0)
    shown = answer_look(training, job="gone", seen="")
    assert shown["board"]["job"] == running
    assert [line["job"] for line in shown["list"]][:2] == [waiting, running]


def test_actions_answer_with_one_line(training):
    job = training.start(asked(training, iterations=1000)).job.job_id
    wait_for(training, job, lambda finetune: finetune.outcome.iteration > 0)
    assert "stop it first" in answer_act(training, action="remove", job=job)["error"]
    assert answer_act(training, action="stop", job=job) == {"job": job}
    wait_for(training, job, lambda finetune: finetune.outcome.state == "stopped")
    assert "nothing called" in answer_act(training, action="__class__", job=job)["error"]
    assert "not here" in answer_act(training, action="stop", job="../x")["error"]
    assert answer_act(training, action="remove", job=job) == {"job": ""}
    assert training.all() == ()


def test_a_finished_fine_tune_is_not_resumed(training):
    job = finished(training, iterations=1).job.job_id
    with pytest.raises(PageError, match="done all its iterations"):
        training.resume(job)


def test_adapters_are_offered_newest_first_and_by_name_only(training):
    first, second = (finished(training, iterations=2).job.job_id for _ in range(2))
    choices = training.adapters()
    assert {choice.key for choice in choices} == {first, second}
    assert training.adapter(first).path == training.find(first).job.run / "adapter"
    with pytest.raises(PageError):
        training.adapter("../../adapters")
    queued = training.start(asked(training, iterations=1000)).job.job_id
    with pytest.raises(PageError, match="no adapter yet"):
        training.adapter(queued)


# --- Files that are half there ---------------------------------------------------------------------------------------


def test_half_written_files_read_as_not_there_yet(tmp_path):
    assert read_status(tmp_path) is None
    (tmp_path / "status.json").write_text('{"state": "run')
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1, "kl": 0.5}\n{"iteration": 2, "kl"')
    assert read_status(tmp_path) is None
    assert read_history(tmp_path).get("kl").tolist() == [0.5]
    assert read_history(tmp_path).last("absent") is None
    assert read_samples(tmp_path) == ()
    (tmp_path / "log").write_bytes(b"\x1b[31mred\x1b[0m\n1%\r2%\r3%\n\nlast\xff\n")
    assert tail(tmp_path / "log", lines=3) == ("red", "3%", "last\ufffd")


def test_an_iteration_that_was_done_again_counts_once(tmp_path):
    rows = [{"iteration": 1, "kl": 1}, {"iteration": 2, "kl": 2}, {"iteration": 2, "kl": 3}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_history(tmp_path).get("kl").tolist() == [1, 3]


# --- Over HTTP -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The page over the fake trainer, and its service."""
    folder = tmp_path_factory.mktemp("page")
    store = RunStore(root=folder / "runs", examples=folder / "examples")
    service = PageService(preset="tiny-debug", store=store, load_studio=lambda _preset: FakeStudio())
    training = TrainingService(store=store, preset="tiny-debug", program=FAKE)
    page = build_page(service, assets=folder, training=training)
    _, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield training, gradio_client.Client(url, verbose=False)
    end_all(training)
    page.close()


def test_start_stop_resume_and_status_over_http(served):
    training, client = served
    answer = client.predict(prompts="\n".join(PROMPTS), iterations=60, settings={"seed": 3}, api_name="/finetune_start")
    job = answer["job"]
    assert training.find(job).job.settings["seed"] == 3
    wait_for(training, job, lambda finetune: finetune.outcome.iteration >= 2)
    status = client.predict(job=job, api_name="/finetune_status")
    assert status["state"] == "running"
    assert status["metrics"]["kl"] > 0
    client.predict(job=job, api_name="/finetune_stop")
    stopped = wait_for(training, job, lambda finetune: finetune.outcome.state == "stopped")
    assert client.predict(job=job, api_name="/finetune_resume")["state"] in {"queued", "starting", "running"}
    wait_for(training, job, lambda finetune: finetune.outcome.state == "finished")
    status = client.predict(job=job, api_name="/finetune_status")
    assert status["iteration"] == 60 > stopped.outcome.iteration
    with urllib.request.urlopen(status["files"]["adapter"]) as response:
        assert response.read() == b"weights 60"
    assert [line["job"] for line in client.predict(api_name="/finetune_list")] == [job]
    assert job in status["page"]


@pytest.mark.parametrize(
    ("endpoint", "arguments", "message"),
    [
        ("/finetune_start", {"iterations": 0}, "iterations must be"),
        ("/finetune_start", {"preset": "tinny"}, "did you mean"),
        ("/finetune_start", {"settings": {"learning_rat": 1}}, "no setting 'learning_rat'"),
        ("/finetune_start", {"settings": {"prompts": "/etc/passwd"}}, "no setting 'prompts'"),
        ("/finetune_status", {"job": "../../etc"}, "not here"),
        ("/finetune_stop", {"job": ""}, "not here"),
        ("/finetune_resume", {"job": "x"}, "not here"),
    ],
)
def test_bad_requests_get_one_line(served, endpoint, arguments, message):
    training, client = served
    before = training.all()
    with pytest.raises(AppError, match=message) as caught:
        client.predict(**arguments, api_name=endpoint)
    assert "\n" not in str(caught.value).strip()
    assert training.all() == before


def test_stamp_follows_the_samples(training):
    finetune = finished(training, iterations=2)
    before = stamp(finetune)
    (finetune.job.run / "samples" / "step-000009").mkdir()
    (finetune.job.run / "samples" / "step-000009" / "0-11.mp4").write_bytes(b"")
    assert stamp(finetune) != before
