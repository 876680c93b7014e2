"""The page in a real browser: it generates with the real service, scrubs, and every view stands at the same frame.

``python app.py`` is started as a visitor would. The preset comes from ``BROWSER_PRESET`` (default ``tiny-debug``).
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
PRESET = os.environ.get("BROWSER_PRESET", "tiny-debug")
PROMPT = "a blue cube on a teal striped floor, the camera trucks left"
PATIENCE_MS = 300_000
"""The machine may be busy; nothing here asserts a time."""

CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)

FRAMES_SHOWN = """() => {
  const stage = document.querySelector(".stage");
  const fps = 8, frames = Number(stage.querySelector(".scrub").max) + 1;
  const video = stage.querySelector("video");
  const box = stage.querySelector("iframe").contentDocument?.querySelector("input");
  const plot = stage.querySelector(".curves .nsewdrag")?.getBoundingClientRect();
  const cursor = stage.querySelector(".playhead i").getBoundingClientRect();
  const cell = stage.querySelector(".cell[data-now]");
  const now = Number(stage.dataset.frame);
  const stripFrame = cell && cell.dataset.from <= now && now <= cell.dataset.to ? now : -1;
  const share = plot ? (cursor.x + cursor.width / 2 - plot.x) / plot.width : NaN;
  return {
    stage: Number(stage.dataset.frame),
    video: Math.floor(video.currentTime * fps),
    scene: box ? Math.floor(Number(box.value) * fps) : -1,
    cursor: Math.round(share * frames - 0.5),
    strip: stripFrame,
  };
}"""
"""Which frame each view shows, read from what is on the screen and not from the stage's own state."""


def find_chromium() -> str:
    """Debian's browser. Without one the test skips, or fails where REQUIRE_BROWSER=1 forbids that."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    if os.environ.get("REQUIRE_BROWSER") == "1":
        pytest.fail("REQUIRE_BROWSER=1, but no chromium is installed: apt-get install chromium")
    pytest.skip("no chromium is installed")


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """``python app.py`` on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    runs = tmp_path_factory.mktemp("runs")
    log = runs.parent / "app.log"
    command = [sys.executable, "app.py", "--port", str(port), "--preset", PRESET, "--runs", str(runs)]
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}/"
            wait_until_it_answers(url, server=server, log=log)
            yield url
        finally:
            server.terminate()
            server.wait(timeout=30)


def wait_until_it_answers(url: str, *, server: subprocess.Popen, log: Path) -> None:
    """Return once the page answers; fail with the server's own words if it ends."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(url):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    pytest.fail(f"app.py ended with {server.returncode}: {log.read_text()[-2000:]}")


@contextmanager
def visit(address: str, *, width: int, height: int):
    """A fresh browser on the page, at rest; ``page.errors`` gathers what its scripts throw."""
    from playwright.sync_api import sync_playwright

    executable = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(CHROMIUM_FLAGS))
        context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(address, timeout=PATIENCE_MS)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def page(address):
    """A page that does not play by itself, so that nothing moves but by the test."""
    with visit(address, width=1000, height=800) as page:
        yield page


@pytest.fixture(scope="module")
def stage(page):
    """The page after a generation of its own, with the 4D scene open."""
    page.locator("#prompt textarea").fill(PROMPT)
    page.locator("#generate").click()
    page.locator(".stage h2", has_text=PROMPT).wait_for()
    page.locator(".player.ready").wait_for()
    page.locator(".curves .nsewdrag").first.wait_for()
    return page


def wait_for_one_frame(page, frame: int) -> None:
    """Every view reaches the frame; otherwise fail with what each of them shows."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    expected = dict.fromkeys(("stage", "video", "scene", "cursor", "strip"), frame)
    while (shown := page.evaluate(FRAMES_SHOWN)) != expected:
        assert time.monotonic() < deadline, f"frame {frame} was asked for, the views show {shown}"
        time.sleep(0.1)


def test_scrubbing_moves_video_scene_curve_and_strip_together(stage):
    wait_for_one_frame(stage, 0)
    stage.locator(".scrub").fill("5")
    wait_for_one_frame(stage, 5)
    stage.locator(".scrub").fill("2")
    wait_for_one_frame(stage, 2)


def test_keys_step_through_frames(stage):
    stage.locator(".scrub").fill("3")
    stage.locator(".stage h2").click()
    stage.keyboard.press("ArrowRight")
    wait_for_one_frame(stage, 4)
    stage.keyboard.press("ArrowLeft")
    stage.keyboard.press("ArrowLeft")
    wait_for_one_frame(stage, 2)
    stage.keyboard.press("End")
    wait_for_one_frame(stage, int(stage.locator(".scrub").get_attribute("max")))


def test_hovering_a_curve_seeks_everything(stage):
    stage.locator(".scrub").fill("0")
    box = stage.locator(".curves .nsewdrag").nth(1).bounding_box()
    frames = int(stage.locator(".scrub").get_attribute("max")) + 1
    stage.mouse.move(box["x"] + box["width"] * 6.2 / frames, box["y"] + box["height"] / 2)
    stage.mouse.move(box["x"] + box["width"] * 6.5 / frames, box["y"] + box["height"] / 2)
    wait_for_one_frame(stage, 6)


def test_a_worst_frame_and_a_thumbnail_are_one_click_away(stage):
    stage.locator('.strip[data-map="depth"] .cell').nth(1).click()
    wait_for_one_frame(stage, 1)
    chip = stage.locator(".chip").first
    frame = int(chip.inner_text())
    chip.click()
    wait_for_one_frame(stage, frame)


def test_colouring_keeps_the_frame_and_moves_the_recording_to_its_block(stage):
    stage.locator(".scrub").fill("4")
    frames = int(stage.locator(".scrub").get_attribute("max")) + 1
    stage.locator(".segments button", has_text="Depth").click()
    seconds = (frames + 4.5) / 8
    stage.wait_for_function(
        "seconds => document.querySelector('iframe').contentDocument.querySelector('input').value === seconds",
        arg=f"{int(seconds * 10 + 0.5) / 10:.1f}",
    )
    assert stage.locator(".map").is_visible()
    stage.locator(".segments button", has_text="RGB").click()
    wait_for_one_frame(stage, 4)


def test_a_reload_returns_to_the_run(stage):
    stage.reload()
    stage.locator(".stage h2", has_text=PROMPT).wait_for()
    assert stage.locator("#prompt textarea").input_value() == PROMPT


def test_an_example_opened_from_the_gallery_is_aligned_too(stage):
    stage.get_by_role("tab", name="Gallery").click()
    card = stage.locator("#gallery button[data-run]").first
    if card.count() == 0:
        pytest.xfail("no example runs are shipped")
    run = card.get_attribute("data-run")
    card.click()
    stage.locator(f'.stage[data-run="{run}"] .player.ready').wait_for()
    stage.locator(".curves .nsewdrag").first.wait_for()
    stage.locator(".scrub").fill("7")
    wait_for_one_frame(stage, 7)


def test_unknown_words_are_named_while_typing(stage):
    stage.locator("#prompt textarea").fill("a red dragon on a grey checkered floor")
    stage.locator("#unknown-words b", has_text="dragon").wait_for()


def test_an_empty_prompt_is_answered_in_one_line_and_the_page_goes_on(stage):
    stage.locator("#prompt textarea").fill("")
    stage.locator("#generate").click()
    stage.locator("#notice .error", has_text="prompt is empty").wait_for()
    stage.locator("#generate").wait_for()


def test_nothing_overflows_on_a_phone(stage):
    stage.set_viewport_size({"width": 390, "height": 844})
    stage.wait_for_timeout(300)
    assert stage.evaluate("document.documentElement.scrollWidth") <= 390
    for tab in ("Gallery", "About"):
        stage.get_by_role("tab", name=tab).click()
        assert stage.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_raised_no_script_error(stage):
    assert stage.errors == []
