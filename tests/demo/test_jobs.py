"""Fine-tunes as processes: one at a time, every way to end, and what a page that was restarted finds."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from demo.jobs import MOST_WAITING, Jobs
from demo.outcomes import read_outcome
from demo.service import PageError
from demo.training_runs import newest_checkpoint, read_history

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("fake_training.py")
PATIENCE = 60.0


def command(job):
    options = ["--iterations", str(job.settings["iterations"]), "--prompts", str(job.prompts), "--out", str(job.run)]
    resume = ["--resume"] if newest_checkpoint(job.run) is not None else []
    return [sys.executable, str(SCRIPT), *options, *resume]


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    monkeypatch.setattr("demo.jobs._PATROL_SECONDS", 0.02)
    jobs = Jobs(tmp_path / "finetunes", command=command, cwd=ROOT)
    yield jobs
    for job in jobs.all():
        while jobs.state(job).progress != "ended":
            jobs.stop(job.job_id)
            time.sleep(0.02)


def submit(jobs, *, iterations=4, word="a red cube"):
    return jobs.submit({"iterations": iterations}, prompts=[word])


def outcome(jobs, job):
    return read_outcome(job, jobs.state(job))


def wait_for(jobs, job, reached):
    """The outcome once ``reached`` holds of it."""
    deadline = time.monotonic() + PATIENCE
    while not reached(seen := outcome(jobs, job)):
        assert time.monotonic() < deadline, f"{seen}\n{job.log.read_text() if job.log.exists() else ''}"
        time.sleep(0.02)
    return seen


def wait_for_state(jobs, job, *states):
    return wait_for(jobs, job, lambda seen: seen.state in states)


def kill(job, number):
    os.kill(json.loads((job.folder / "process.json").read_text())["pid"], number)


def test_a_job_runs_to_its_end_and_says_so(jobs):
    job = submit(jobs, iterations=3)
    seen = wait_for_state(jobs, job, "finished")
    assert (seen.iteration, seen.iterations, seen.can_resume) == (3, 3, False)
    assert read_history(job.run).iterations.tolist() == [0, 1, 2, 3]


def test_one_runs_and_the_others_wait_in_order(jobs):
    order = [submit(jobs, iterations=2) for _ in range(3)]
    seen_together = 0
    while any(jobs.state(job).progress != "ended" for job in order):
        states = [jobs.state(job).progress for job in order]
        seen_together = max(seen_together, sum(state in {"starting", "running", "stopping"} for state in states))
        time.sleep(0.01)
    started = [json.loads((job.folder / "process.json").read_text())["started"] for job in order]
    ended = [(job.run / "status.json").stat().st_mtime for job in order]
    assert seen_together == 1
    assert started[1] >= ended[0]
    assert started[2] >= ended[1]


def test_places_in_the_queue_and_a_full_one(jobs):
    running = submit(jobs, iterations=1000)
    wait_for_state(jobs, running, "running")
    waiting = [submit(jobs) for _ in range(MOST_WAITING)]
    assert [jobs.state(job).place for job in waiting] == list(range(1, MOST_WAITING + 1))
    with pytest.raises(PageError, match="already wait"):
        submit(jobs)
    jobs.stop(waiting[0].job_id)
    assert outcome(jobs, waiting[0]).message.startswith("Taken out of the queue")
    assert jobs.state(waiting[1]).place == 1
    for job in waiting[1:]:
        jobs.stop(job.job_id)


def test_stop_keeps_a_checkpoint_and_resume_goes_on_from_it(jobs):
    job = submit(jobs, iterations=30)
    wait_for(jobs, job, lambda seen: seen.iteration >= 3)
    jobs.stop(job.job_id)
    seen = wait_for_state(jobs, job, "stopped")
    assert newest_checkpoint(job.run) == seen.iteration >= 3
    assert f"The checkpoint of iteration {seen.iteration} is kept." in seen.message
    assert seen.can_resume
    jobs.resume(job.job_id)
    assert wait_for_state(jobs, job, "finished").iteration == 30
    assert read_history(job.run).iterations.tolist() == list(range(31))


def test_a_killed_process_is_named_and_can_go_on(jobs):
    job = submit(jobs, iterations=30)
    wait_for(jobs, job, lambda seen: seen.iteration >= 3)
    kill(job, signal.SIGKILL)
    seen = wait_for_state(jobs, job, "failed")
    assert "signal 9" in seen.message
    assert "memory" in seen.message
    kept = newest_checkpoint(job.run)
    assert f"The checkpoint of iteration {kept} is kept." in seen.message
    jobs.resume(job.job_id)
    assert wait_for_state(jobs, job, "finished").iteration == 30


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("memory", "It ran out of memory: lower the group size"),
        ("cuda", "Out of memory in the update: give a lower --micro-batch than 4."),
        ("crash", "RuntimeError: the transformer fell apart."),
        ("refuse", "The adapter in its folder does not fit."),
    ],
)
def test_how_a_job_failed_is_one_sentence(jobs, word, said):
    seen = wait_for_state(jobs, submit(jobs, word=word), "failed")
    assert said in seen.message
    assert "Traceback" not in seen.message


def test_a_program_that_cannot_start_is_a_failed_job_and_the_queue_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("demo.jobs._PATROL_SECONDS", 0.02)
    jobs = Jobs(tmp_path, command=lambda _job: ["/nowhere/python"], cwd=ROOT)
    first, second = submit(jobs), submit(jobs)
    assert "No such file" in wait_for_state(jobs, first, "failed").message
    wait_for_state(jobs, second, "failed")


def test_a_second_stop_ends_a_deaf_process_at_once(jobs):
    job = submit(jobs, iterations=1000, word="deaf")
    wait_for(jobs, job, lambda seen: seen.iteration >= 2)
    jobs.stop(job.job_id)
    assert wait_for_state(jobs, job, "stopping").state == "stopping"
    jobs.stop(job.job_id)
    assert wait_for_state(jobs, job, "stopped").message.startswith("Ended at once")


def test_a_restarted_page_finds_the_running_and_the_waiting_job(jobs):
    running, waiting = submit(jobs, iterations=12), submit(jobs, iterations=1)
    wait_for_state(jobs, running, "running")
    restarted = Jobs(jobs.root, command=command, cwd=ROOT)
    assert [job.job_id for job in restarted.all()] == [waiting.job_id, running.job_id]
    assert outcome(restarted, running).state == "running"
    assert outcome(restarted, waiting).state == "queued"
    restarted.wake()
    wait_for_state(restarted, running, "finished")
    wait_for_state(restarted, waiting, "finished")


def test_a_process_that_ended_while_no_page_looked_is_said_to_be_gone(jobs):
    job = submit(jobs, iterations=1000)
    wait_for(jobs, job, lambda seen: seen.iteration >= 2)
    kill(job, signal.SIGKILL)
    wait_for_state(jobs, job, "failed")
    (job.folder / "exit.json").unlink()
    seen = outcome(Jobs(jobs.root, command=command, cwd=ROOT), job)
    assert seen.state == "failed"
    assert "gone without a word" in seen.message
    assert seen.can_resume


def test_another_process_under_the_same_number_is_not_the_job(jobs):
    job = wait_for_job(jobs)
    facts = {"pid": os.getpid(), "created": 1.0, "started": 1.0}
    (job.folder / "process.json").write_text(json.dumps(facts))
    (job.folder / "exit.json").unlink()
    assert jobs.state(job).progress == "ended"
    jobs.stop(job.job_id)  # must not end this very process


def wait_for_job(jobs):
    job = submit(jobs, iterations=1)
    wait_for_state(jobs, job, "finished")
    return job


@pytest.mark.parametrize("name", ["", "..", "../..", "x", "20260101-000000-../../..", "20260101-000000-00000000"])
def test_no_name_leads_out_of_the_folder(jobs, name):
    with pytest.raises(PageError, match="not here"):
        jobs.find(name)


def test_remove_deletes_an_ended_job_only(jobs):
    running = submit(jobs, iterations=1000)
    wait_for_state(jobs, running, "running")
    with pytest.raises(PageError, match="stop it first"):
        jobs.remove(running.job_id)
    jobs.stop(running.job_id)
    wait_for_state(jobs, running, "stopped")
    jobs.remove(running.job_id)
    assert jobs.all() == ()
