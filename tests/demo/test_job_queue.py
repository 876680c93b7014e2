"""One line of jobs: order, places, everybody's share, and what becomes of jobs that nobody follows."""

import threading
import time

import pytest

from demo.job_queue import JobQueue, PageError, StepReport


class Visitors:
    """Who asks now."""

    def __init__(self):
        self.now = "ada"

    def __call__(self):
        return self.now


class Job:
    """A job that ends when told to."""

    def __init__(self):
        self.may_end = threading.Event()
        self.was_stopped = False

    def __call__(self, report, should_stop):
        while not self.may_end.wait(0.01):
            if should_stop():
                self.was_stopped = True
                break
        return "done"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("demo.job_queue.HEARTBEAT", 0.02)


@pytest.fixture
def visitors():
    return Visitors()


@pytest.fixture
def line(visitors):
    return JobQueue(per_visitor=2, most=3, visitor=visitors)


def last(steps):
    *_, result = steps
    return result


def test_jobs_run_one_at_a_time_in_order_and_those_who_wait_know_their_place(line, visitors):
    jobs = [Job(), Job(), Job()]
    steps = []
    for job, visitor in zip(jobs, ("ada", "bob", "eve"), strict=True):
        visitors.now = visitor
        steps.append(line.run(job))
        next(steps[-1])
    places = [next(one) for one in steps[1:]]
    assert [(report.phase, report.ahead) for report in places] == [("queue", 1), ("queue", 2)]
    jobs[0].may_end.set()
    assert last(steps[0]) == "done"
    while next(steps[1]).phase == "queue":
        pass
    assert next(steps[2]) == StepReport(phase="queue", ahead=1)
    for job, one in zip(jobs[1:], steps[1:], strict=True):
        job.may_end.set()
        assert last(one) == "done"


def test_a_visitor_has_a_share_and_the_line_an_end(line, visitors):
    steps = [line.run(Job()), line.run(Job())]
    for one in steps:
        next(one)
    with pytest.raises(PageError, match="already have 2 jobs"):
        next(line.run(Job()))
    visitors.now = "bob"
    third = line.run(Job())
    next(third)
    visitors.now = "eve"
    with pytest.raises(PageError, match="3 jobs are already in line"):
        next(line.run(Job()))
    for one in (*steps, third):
        one.close()


def test_closing_stops_the_job_and_gives_its_place_to_the_next(line):
    first, second = Job(), Job()
    steps = line.run(first)
    next(steps)
    other = line.run(second)
    assert next(other).phase == "queue"
    steps.close()
    second.may_end.set()
    assert last(other) == "done"
    assert first.was_stopped


def test_a_place_that_nobody_asks_for_is_given_away(line, visitors, monkeypatch):
    job = Job()
    running = line.run(job)
    next(running)
    forgotten = line.run(Job())
    assert next(forgotten).ahead == 1
    visitors.now = "bob"
    waiting = line.run(Job())
    assert next(waiting).ahead == 2
    monkeypatch.setattr("demo.job_queue._PATIENCE", 0.05)
    deadline = time.monotonic() + 10
    while next(waiting).ahead != 1:
        assert time.monotonic() < deadline
    with pytest.raises(PageError, match="given away"):
        next(forgotten)
    waiting.close()
    running.close()


def test_what_a_job_raises_is_raised_to_who_follows_it(line):
    def fail(report, should_stop):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        last(line.run(fail))
    job = Job()
    job.may_end.set()
    assert last(line.run(job)) == "done"


def test_a_job_that_is_an_iterator_runs_in_the_thread_that_asks(line):
    def follow():
        yield StepReport(phase="load")
        yield threading.current_thread()

    assert last(line.run_here(follow)) is threading.current_thread()
    assert last(line.run_here(follow)) is threading.current_thread()
