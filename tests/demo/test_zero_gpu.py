"""A Space whose GPU is lent for seconds: jobs in a forked process, the estimate, and what cannot be done there."""

import sys
from dataclasses import replace

import gradio as gr
import pytest

import vggrpo.generation  # noqa: F401 - once here, or every forked process imports it anew
from demo import zero_gpu_service
from demo.compare_service import CompareInput, ManyTask, ModelChoice, PairTask, SideInput, Sides
from demo.environment import read_environment
from demo.job_queue import PageError, StepReport
from demo.panels.finetune import estimate_html
from demo.results import RunResult
from demo.run_store import RunStore
from demo.service import GenerateInput, Generation, PageService
from demo.training_service import TrainingService
from tests.demo import fake_spaces

PROMPT = "a red sphere on a grey checkered floor, the camera orbits left"
ZERO = {"SPACE_ID": "somebody/studio", "SPACES_ZERO_GPU": "true"}


@pytest.fixture
def service(tmp_path, monkeypatch):
    for name, value in ZERO.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "spaces", fake_spaces)
    monkeypatch.setattr(zero_gpu_service, "_on_gpu", zero_gpu_service._borrowed(zero_gpu_service._do))
    fake_spaces.asked_for.clear()
    store = RunStore(root=tmp_path / "runs", examples=tmp_path / "examples")
    return PageService(preset="tiny-debug", store=store, environment=read_environment())


def test_a_video_is_drawn_in_the_forked_process_and_opens_in_this_one(service):
    *reports, run = service.generate(GenerateInput(prompt=PROMPT, steps=2))
    assert {report.phase for report in reports} >= {"load"}
    assert all(isinstance(report, StepReport) for report in reports)
    assert isinstance(run, RunResult)
    assert service.store.find(run.run_id) == run.folder
    assert not service.is_warm  # this process has loaded nothing
    assert fake_spaces.asked_for == [30]


def test_the_visitors_mistake_comes_back_as_a_line_and_not_as_the_name_of_an_exception(service):
    with pytest.raises(PageError, match="The prompt is empty"):
        list(service.generate(GenerateInput(prompt=" ")))


def test_closing_ends_the_forked_process_and_frees_the_line(service):
    steps = service.generate(GenerateInput(prompt=PROMPT, steps=50))
    next(steps)
    steps.close()
    *_, run = service.generate(GenerateInput(prompt=PROMPT, steps=2))
    assert [path.name for path in service.store.root.iterdir() if path.name != "page"] == [run.run_id]


def test_a_used_up_quota_is_said_in_its_own_words(service, monkeypatch):
    def refuse(blueprint, task):
        raise gr.Error("You have exceeded your <b>GPU quota</b>")

    monkeypatch.setattr(zero_gpu_service, "_on_gpu", refuse)
    with pytest.raises(PageError, match="You have exceeded your GPU quota"):
        list(service.generate(GenerateInput(prompt=PROMPT)))


def seconds(service, task, preset):
    return zero_gpu_service.estimate(replace(service.blueprint(), preset=preset), task)


def test_the_estimate_grows_with_steps_prompts_and_guidance(service):
    def video(**changes):
        return Generation(asked=GenerateInput(prompt=PROMPT, **changes))

    few, many = (seconds(service, video(steps=steps), "wan2.1-t2v-1.3b") for steps in (4, 8))
    assert 30 < few < many
    assert many - 30 == pytest.approx(2 * (few - 30), abs=2)
    guided = seconds(service, video(steps=4, reward_guidance=20.0, reward_guidance_every=3), "wan2.1-t2v-1.3b")
    assert guided - 30 == pytest.approx(3 * (few - 30), abs=3)
    base = ModelChoice(key="", label="Base model", path=None)
    asked = CompareInput(base=SideInput(), tuned=SideInput(guided=True), prompt=PROMPT, steps=4)
    pair = PairTask(asked=asked, sides=Sides(base=base, tuned=base))
    assert seconds(service, pair, "wan2.1-t2v-1.3b") - 30 == pytest.approx(6 * (few - 30), abs=6)
    crowd = ManyTask(asked=asked, sides=Sides(base=base, tuned=base), count=16)
    with pytest.raises(PageError, match="a visitor gets 300 s at a time"):
        seconds(service, crowd, "wan2.1-t2v-1.3b")


def test_nothing_can_be_trained_and_the_page_says_why(service):
    training = TrainingService(store=service.store, preset="tiny-debug", environment=service.environment)
    assert "nothing can be trained here" in estimate_html(training, preset="tiny-debug", iterations=1, videos=1)
    with pytest.raises(PageError, match="Duplicate the Space with a GPU of its own"):
        training.start(training.defaults("tiny-debug"))


def test_elsewhere_spaces_is_not_even_imported(monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    monkeypatch.setitem(sys.modules, "spaces", None)
    assert zero_gpu_service._borrowed(zero_gpu_service._do) is zero_gpu_service._do
