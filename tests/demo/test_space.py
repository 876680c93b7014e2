"""The page as a Hugging Face Space starts it: a process of its own over a copy of the repository that nobody writes to,
a home that is empty, the port from the environment, no network; and two visitors at once.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio_client
import pytest
from gradio_client.exceptions import AppError

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = Path(__file__).with_name("offline")
PROMPT = "a red sphere on a grey checkered floor, the camera orbits left"
PATIENCE = 120.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def written(folder):
    """Every file and folder with its time; what Python compiles for itself does not count."""
    return {
        path.relative_to(folder): path.lstat().st_mtime_ns
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts and not path.is_dir()
    }


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A copy without write permission (which binds everybody but root; ``written`` tells what root changed)."""
    copy = tmp_path_factory.mktemp("space") / "app"
    copy.mkdir()
    for name in ("app.py", "demo", "vggrpo", "scene_export", "assets"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, copy / name)
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    yield copy
    for path in (copy, *copy.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the process may write."""
    folder = tmp_path_factory.mktemp("machine")
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    return folder


@pytest.fixture(scope="module")
def address(repository, place):
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(place / "home"),
        "TMPDIR": str(place / "tmp"),
        "SPACE_ID": "somebody/studio",
        "GRADIO_SERVER_PORT": str(port),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(OFFLINE),
        "OFFLINE_NOTES": str(place / "asked-for"),
    }
    with (place / "log").open("wb") as log:
        page = subprocess.Popen(
            [sys.executable, "app.py"], cwd=repository, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}/"
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(address).close()
            break
        except (urllib.error.URLError, OSError):
            assert page.poll() is None, (place / "log").read_text()
            assert time.monotonic() < deadline, (place / "log").read_text()
            time.sleep(0.2)
    yield address
    page.terminate()
    page.wait(timeout=30)


@pytest.fixture(scope="module")
def visitors(address):
    return [gradio_client.Client(address, verbose=False) for _ in range(2)]


def status_of(address):
    try:
        with urllib.request.urlopen(address) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_two_visitors_at_once_get_their_own_runs_and_links_open_them(visitors, address, place):
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(v.predict, prompt=PROMPT, seed=i, steps=2, api_name="/generate") for i, v in enumerate(visitors)
        ]
        ada, bob = (job.result(timeout=PATIENCE) for job in jobs)
    assert ada["run"] != bob["run"]
    assert len(ada["run"]) >= 22
    assert (place / "tmp" / "vggrpo-runs" / ada["run"] / "manifest.json").exists()
    with urllib.request.urlopen(address + "config") as response:
        config = response.read().decode()
    assert ada["run"] not in config
    # Whoever was given the link sees the run; nobody else can name it.
    assert status_of(ada["page"]) == 200
    assert status_of(ada["files"]["geometry.npz"]) == 200
    for folder in ("", "page/", "finetunes/"):
        assert status_of(f"{address}gradio_api/file={place / 'tmp' / 'vggrpo-runs'}/{folder}") == 403


def test_a_fine_tune_is_its_visitors_own_and_whoever_has_its_name_may_look(visitors):
    ada, bob = visitors
    job = ada.predict(prompts=PROMPT, iterations=1, group_size=2, groups=1, api_name="/finetune_start")["job"]
    try:
        assert [one["job"] for one in ada.predict(api_name="/finetune_list")] == [job]
        assert bob.predict(api_name="/finetune_list") == []
        assert bob.predict(job=job, api_name="/finetune_status")["job"] == job
        for action in ("stop", "resume"):
            with pytest.raises(AppError, match="somebody else's"):
                bob.predict(job=job, api_name=f"/finetune_{action}")
        with pytest.raises(AppError, match="already have a fine-tune"):
            ada.predict(prompts=PROMPT, iterations=1, group_size=2, groups=1, api_name="/finetune_start")
        with pytest.raises(AppError, match="would draw 64000 videos"):
            bob.predict(prompts=PROMPT, iterations=2000, group_size=16, groups=2, api_name="/finetune_start")
    finally:
        for _ in range(2):
            state = ada.predict(job=job, api_name="/finetune_stop")["state"]
    assert state in {"stopped", "stopping"}


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("text.mp4", b"no video at all\n" * 99, "text.mp4 cannot be read as a video"),
        ("bomb.npz", b"PK\x05\x06" + bytes(18), "bomb.npz has no array 'camera_from_world'"),
        ("page.safetensors", b"<script>", "page.safetensors is not a safetensors file"),
    ],
)
def test_a_hostile_file_is_one_line_and_the_page_goes_on(visitors, tmp_path, name, content, line):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AppError, match=line) as caught:
        visitors[1].predict(file=gradio_client.handle_file(tmp_path / name), api_name="/score")
    assert "/gradio/" not in str(caught.value)
    assert visitors[1].predict(api_name="/finetune_list") == []


def test_nothing_of_the_repository_or_the_home_is_served(address, repository, place):
    (place / "home" / "token").write_text("secret")
    for path in (
        repository / "app.py",
        repository / "assets" / "MANIFEST.json",
        place / "home" / "token",
        place / "log",
    ):
        assert status_of(f"{address}gradio_api/file={path}") == 403
    examples = sorted((repository / "assets" / "examples").glob("*/video.mp4"))
    assert status_of(f"{address}gradio_api/file={examples[0]}") == 200


def test_the_repository_stays_as_it_was_and_nobody_was_asked_for_anything(address, repository, place):
    changed = {path for path, when in written(repository).items() if when > (ROOT / path).lstat().st_mtime_ns + 10**9}
    assert changed == set()
    assert {path.parts[0] for path in written(repository)} == {"app.py", "demo", "vggrpo", "scene_export", "assets"}
    assert not (place / "asked-for").exists(), (place / "asked-for").read_text()
    assert "Traceback" not in (place / "log").read_text()
