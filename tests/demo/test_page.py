"""The page over HTTP, as ``gradio_client`` sees it: endpoints, errors, Cancel, and what is served."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import gradio_client
import numpy as np
import pytest
import torch
from gradio_client.exceptions import AppError

from demo.blocks import build_page, opening
from demo.environment import STRANGERS
from demo.run_store import RunStore
from demo.service import GenerateInput, PageError, PageService
from demo.viewers.table import reward_table
from tests.demo.fake_studio import FakeStudio
from tests.demo.synthetic_run import render_clip, write_run

PROMPT = "a red sphere on a grey checkered floor, the camera orbits left"


@pytest.fixture(scope="module")
def studio():
    return FakeStudio()


@pytest.fixture(scope="module")
def service(tmp_path_factory, studio):
    folder = tmp_path_factory.mktemp("page")
    write_run(folder / "examples" / "first", num_frames=5, size=24)
    write_run(folder / "examples" / "second", num_frames=5, size=24)
    store = RunStore(root=folder / "runs", examples=folder / "examples")
    return PageService(preset="tiny-debug", store=store, load_studio=lambda _preset: studio)


@pytest.fixture(scope="module")
def address(service):
    page = build_page(service, assets=service.store.examples.parent)
    _, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield url
    page.close()


@pytest.fixture(scope="module")
def client(address):
    return gradio_client.Client(address, verbose=False)


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url) as response:
        return response.read()


def test_generate_returns_run_rewards_and_files_that_download(client, service):
    answer = client.predict(prompt=PROMPT, seed=3, api_name="/generate")
    assert answer["state"] == "done"
    folder = service.store.find(answer["run"])
    assert answer["rewards"] == json.loads((folder / "rewards.json").read_text())
    assert fetch(answer["files"]["geometry.npz"]) == (folder / "geometry.npz").read_bytes()
    assert fetch(answer["files"]["video.mp4"]) == (folder / "video.mp4").read_bytes()
    assert fetch(answer["files"]["scene.glb"])[:4] == b"glTF"
    assert json.loads((folder / "manifest.json").read_text())["seed"] == 3
    assert b"VGGRPO" in fetch(answer["page"])


def test_reward_guidance_is_asked_for_and_told_before_and_after(client, service):
    asked = {"steps": 6, "reward_guidance": 20, "reward_guidance_every": 3}
    answer = client.predict(prompt=PROMPT, **asked, api_name="/generate")
    told = answer["reward_guidance"]
    assert (told["scale"], told["every"]) == (20, 3)
    assert (told["before"]["reward"], told["after"]["reward"]) == (0.25, 0.375)
    assert told["after"]["geometry_consistency"] is None
    shown = reward_table(service.open_run(answer["run"]))
    row = shown.split('data-guided="reward"')[1].split("</tr>")[0]
    assert re.findall(r'class="num">([^<]*)<', row) == ["0.250", "0.375"]
    assert "9 guided, 1 left alone" in shown
    assert "6.5 s with guidance and 2.2 s without" in shown
    assert client.predict(prompt=PROMPT, api_name="/generate")["reward_guidance"] is None


def test_generate_streams_progress(client):
    job = client.submit(prompt=PROMPT, api_name="/generate")
    job.result(timeout=60)
    running = [step for step in job.outputs() if step["state"] == "running"]
    assert running
    assert {step["phase"] for step in running} <= {"load", "denoise"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": "a " * 2000}, "at most"),
        ({"prompt": PROMPT, "seed": -1}, "seed"),
        ({"prompt": PROMPT, "preset": "tinny"}, "did you mean 'tiny'"),
        ({"prompt": PROMPT, "steps": 0}, "steps"),
        ({"prompt": PROMPT, "reward_guidance": -1}, "reward guidance scale is -1"),
        ({"prompt": PROMPT, "reward_guidance": 5, "reward_guidance_every": 0}, "every 0 steps"),
        ({"prompt": PROMPT, "steps": 4, "reward_guidance": 5, "reward_guidance_every": 5}, "never acts in 4 steps"),
    ],
)
def test_bad_requests_get_one_clear_line_and_the_server_goes_on(client, arguments, message):
    with pytest.raises(AppError, match=message) as caught:
        client.predict(**arguments, api_name="/generate")
    assert "\n" not in str(caught.value).strip()
    assert client.predict(prompt=PROMPT, api_name="/generate")["state"] == "done"


def test_score_of_a_geometry_needs_no_model(client, service, tmp_path):
    np.savez(tmp_path / "geometry.npz", **render_clip(num_frames=6, size=24).geometry)
    answer = client.predict(file=gradio_client.handle_file(tmp_path / "geometry.npz"), api_name="/score")
    assert answer["rewards"]["motion_smoothness"]["value"] == pytest.approx(1.0, abs=0.05)
    assert answer["rewards"]["geometry_consistency"]["value"] == pytest.approx(0.0, abs=0.02)
    assert set(answer["files"]) >= {"geometry.npz", "scene.ply", "scene.viser", "rewards.csv"}


@pytest.mark.parametrize("name", ["lacks", "shape", "nan", "text"])
def test_a_bad_geometry_is_named(client, tmp_path, name):
    arrays = render_clip(num_frames=4, size=16).geometry
    if name == "lacks":
        del arrays["depth"]
    if name == "shape":
        arrays["depth"] = arrays["depth"][:, :-1]
    if name == "nan":
        arrays["camera_from_world"][1, 0, 0] = np.nan
    path = tmp_path / "geometry.npz"
    np.savez(path, **arrays)
    if name == "text":
        path.write_text("not an archive")
    named = {"lacks": "depth", "shape": "depth", "nan": "camera_from_world", "text": "geometry.npz"}[name]
    with pytest.raises(AppError, match=named):
        client.predict(file=gradio_client.handle_file(path), api_name="/score")


def test_unknown_kind_is_refused(client, tmp_path):
    path = tmp_path / "geometry.npz"
    path.write_bytes(b"")
    with pytest.raises(AppError, match="kind must be"):
        client.predict(file=gradio_client.handle_file(path), kind="audio", api_name="/score")


def test_only_named_actions_are_public(client):
    training = {f"/finetune_{action}" for action in ("start", "stop", "resume", "status", "list")}
    public = set(client.view_api(return_format="dict")["named_endpoints"])
    assert public == {"/generate", "/score", "/compare", *training}


def test_every_setting_of_the_page_is_a_parameter(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    for name, settings in {
        "/generate": {"steps", "guidance", "seed"},
        "/compare": {"steps", "guidance", "seed"},
    }.items():
        assert settings <= {parameter["parameter_name"] for parameter in endpoints[name]["parameters"]}


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")]
)
def test_a_lack_of_memory_is_one_line_and_the_models_make_room(service, studio, monkeypatch, error):
    def run_out(*arguments, **options):
        raise error

    list(service.generate(GenerateInput(prompt=PROMPT)))
    assert service.is_warm
    with monkeypatch.context() as patched:
        patched.setattr(studio, "generate", run_out)
        with pytest.raises(PageError, match="ran out of memory") as caught:
            list(service.generate(GenerateInput(prompt=PROMPT)))
    assert "\n" not in str(caught.value)
    assert not service.is_warm
    *_, run = service.generate(GenerateInput(prompt=PROMPT))
    assert run.prompt == PROMPT


def test_steps_beyond_the_places_bound_are_refused(service, monkeypatch):
    monkeypatch.setattr(service, "limits", STRANGERS)
    with pytest.raises(PageError, match="51 denoising steps were asked for: at most 50"):
        list(service.generate(GenerateInput(prompt=PROMPT, steps=51)))


@pytest.mark.parametrize("path", ["/etc/passwd", str(Path(__file__).parents[2] / "app.py"), "demo/service.py"])
def test_other_files_are_not_served(address, path):
    with pytest.raises(urllib.error.HTTPError) as caught:
        fetch(f"{address}gradio_api/file={path}")
    assert caught.value.code in (403, 404)


def test_video_answers_range_requests(address, service):
    video = service.store.examples / "first" / "video.mp4"
    request = urllib.request.Request(f"{address}gradio_api/file={video}", headers={"Range": "bytes=10-19"})
    with urllib.request.urlopen(request) as response:
        assert response.status == 206
        assert response.read() == video.read_bytes()[10:20]


def test_cancel_stops_the_job_and_keeps_nothing(client, service, studio):
    runs_before = set(service.store.root.iterdir())
    studio.patience = 5.0
    try:
        job = client.submit(prompt=PROMPT, api_name="/generate")
        while not job.outputs():
            time.sleep(0.05)
        job.cancel()
        assert studio.cancelled.wait(timeout=30)
    finally:
        studio.patience = 0.0
    assert set(service.store.root.iterdir()) == runs_before
    assert client.predict(prompt=PROMPT, api_name="/generate")["state"] == "done"


def test_an_empty_visit_opens_the_first_example(service):
    notice, stage, _, _ = opening(service, {})
    assert notice == ""
    assert stage["id"] == "first"


def test_a_link_opens_its_run_frame_prompt_and_seed(service):
    _, stage, prompt, seed = opening(service, {"run": "second", "frame": "3"})
    assert (stage["id"], stage["frame"]) == ("second", 3)
    assert "red sphere" in prompt
    assert seed == 7


def test_a_link_with_a_prompt_fills_the_form_only(service):
    _, stage, prompt, seed = opening(service, {"prompt": "a blue cube", "seed": "12"})
    assert not isinstance(stage.get("id"), str)
    assert (prompt, seed) == ("a blue cube", 12)


def test_a_link_to_a_swept_run_says_so(service):
    notice, *_ = opening(service, {"run": "A" * 22})
    assert "not here any more" in notice


def test_unknown_words_are_named_without_a_model(service):
    assert service.unknown_words("a red dragon on a grey checkered floor, dragon") == ["dragon"]


def test_builder_composes_the_training_captions_sentence(service):
    scene = {
        "objects": [{"colour": "red", "shape": "sphere", "motion": "hop"}],
        "floor_colour": "teal",
        "floor_pattern": "tiled",
        "camera_move": "dolly in",
    }
    sentence = service.compose(scene)
    assert sentence == "a red sphere on a teal tiled floor, the red sphere hops, the camera dollies in"
    assert service.unknown_words(sentence) == []
    with pytest.raises(PageError, match="shape 'dragon'"):
        service.compose(scene | {"objects": [{"colour": "red", "shape": "dragon", "motion": "hop"}]})


@pytest.mark.parametrize(
    ("flags", "variables", "message"),
    [
        (["--preset", "tinny"], {}, "did you mean 'tiny'"),
        (["--runs", "/dev/null/runs"], {}, "/dev/null"),
        ([], {"PORT": "web"}, "PORT must be a port number, not 'web'"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_code_2(flags, variables, message):
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "app.py", *flags], cwd=root, env=os.environ | variables, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert message in ended.stderr.strip().splitlines()[-1]
    assert "Traceback" not in ended.stderr
