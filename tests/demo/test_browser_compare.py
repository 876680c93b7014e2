"""Compare in a real browser: an uploaded adapter makes a pair, and every view of both sides shows the same frame."""

import time
from pathlib import Path

import pytest

from tests.demo.make_adapter import write_adapter
from tests.demo.test_browser import PATIENCE_MS, address, visit  # noqa: F401 - a fixture

pytestmark = pytest.mark.browser

UPLOAD_SECONDS = 30
"""A file that has not arrived by then is chosen again."""
PROMPT = "a green cone on a teal striped floor, the camera trucks left"

FRAMES_SHOWN = """() => {
  const stage = document.querySelector(".compare");
  const fps = 8, frames = Number(stage.querySelector(".scrub").max) + 1;
  const now = Number(stage.dataset.frame);
  const video = (i) => Math.floor(stage.querySelectorAll("video")[i].currentTime * fps);
  const scene = (i) => {
    const box = stage.querySelectorAll("iframe")[i].contentDocument?.querySelector("input");
    return box ? Math.floor(Number(box.value) * fps) : -1;
  };
  const plot = stage.querySelector(".curves .nsewdrag").getBoundingClientRect();
  const cursor = stage.querySelector(".playhead i").getBoundingClientRect();
  const strips = [...stage.querySelectorAll(".strip")].every((strip) => {
    const cell = strip.querySelector(".cell[data-now]");
    return cell && cell.dataset.from <= now && now <= cell.dataset.to;
  });
  return {
    stage: now,
    baseVideo: video(0), tunedVideo: video(1),
    baseScene: scene(0), tunedScene: scene(1),
    cursor: Math.round(((cursor.x + cursor.width / 2 - plot.x) / plot.width) * frames - 0.5),
    strips: strips ? now : -1,
    bars: Number(stage.querySelector(".paired thead th:last-child").textContent.replace("At frame ", "")),
  };
}"""
"""Which frame each view of both sides shows, read from what is on the screen."""


@pytest.fixture(scope="module")
def page(address: str, tmp_path_factory: pytest.TempPathFactory):  # noqa: F811 - the fixture from above
    """The page with a pair of its own, made with an uploaded adapter; nothing plays by itself."""
    adapter = write_adapter(tmp_path_factory.mktemp("adapter") / "lora") / "pytorch_lora_weights.safetensors"
    with visit(address, width=1200, height=900) as page:
        make_pair(page, adapter)
        yield page


def make_pair(page, adapter: Path) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-prompt textarea").fill(PROMPT)
    page.locator("#compare-adapter input").click()
    page.get_by_role("option", name="Your own LoRA").click()
    upload(page, adapter)
    page.locator("#compare").click()
    page.locator(".compare h2", has_text=PROMPT).wait_for()
    page.locator(".compare .player.ready").nth(1).wait_for()
    page.locator(".compare .curves .nsewdrag").first.wait_for()


def upload(page, adapter: Path) -> None:
    """Choose the file. On a busy machine the box is still being put up, and what was chosen goes with the old one."""
    box = page.locator("#compare-upload")
    box.locator("input[type=file]").set_input_files(adapter)
    deadline = time.monotonic() + PATIENCE_MS / 1000
    again = time.monotonic() + UPLOAD_SECONDS
    while "pytorch_lora" not in box.inner_text():
        assert time.monotonic() < deadline, f"{adapter.name} was chosen, the box shows {box.inner_text()!r}"
        if time.monotonic() > again and box.locator("input[type=file]").count():
            box.locator("input[type=file]").set_input_files(adapter)
            again = time.monotonic() + UPLOAD_SECONDS
        time.sleep(0.2)


def wait_for_one_frame(page, frame: int) -> None:
    """Every view of both sides reaches the frame; otherwise fail with what each of them shows."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    views = ("stage", "baseVideo", "tunedVideo", "baseScene", "tunedScene", "cursor", "strips", "bars")
    while (shown := page.evaluate(FRAMES_SHOWN)) != dict.fromkeys(views, frame):
        assert time.monotonic() < deadline, f"frame {frame} was asked for, the views show {shown}"
        time.sleep(0.1)


def test_one_clock_moves_both_videos_both_scenes_curves_strips_and_bars(page) -> None:
    wait_for_one_frame(page, 0)
    page.locator(".compare .scrub").fill("5")
    wait_for_one_frame(page, 5)
    page.locator(".compare h2").click()
    page.keyboard.press("ArrowLeft")
    wait_for_one_frame(page, 4)


def test_hovering_a_curve_seeks_both_sides(page) -> None:
    frames = int(page.locator(".compare .scrub").get_attribute("max")) + 1
    box = page.locator(".compare .curves .nsewdrag").nth(1).bounding_box()
    page.mouse.move(box["x"] + box["width"] * 6.2 / frames, box["y"] + box["height"] / 2)
    page.mouse.move(box["x"] + box["width"] * 6.5 / frames, box["y"] + box["height"] / 2)
    wait_for_one_frame(page, 6)


def test_both_curves_are_drawn_and_told_apart(page) -> None:
    strokes = page.evaluate(
        """() => ["base", "tuned"].map((side) => getComputedStyle(document.querySelector(
          `.compare .curves [class*="trace${side}-motion_smoothness"] .lines path`)).stroke)"""
    )
    assert len(set(strokes)) == 2


def test_playing_moves_both_videos_together(page) -> None:
    page.locator(".compare .scrub").fill("0")
    page.locator(".compare .play").click()
    page.wait_for_function("() => Number(document.querySelector('.compare').dataset.frame) >= 3")
    page.locator(".compare .play").click()
    wait_for_one_frame(page, page.evaluate("Number(document.querySelector('.compare').dataset.frame)"))


def test_wipe_lays_the_videos_over_each_other_and_its_edge_follows_the_pointer(page) -> None:
    page.locator(".compare .segments button", has_text="Wipe").click()
    boxes = [page.locator(".compare .video-pane").nth(i).bounding_box() for i in range(2)]
    assert boxes[0] == pytest.approx(boxes[1], abs=1.0)
    for share in (0.25, 0.75):
        page.mouse.move(boxes[0]["x"] + share * boxes[0]["width"], boxes[0]["y"] + boxes[0]["height"] / 2)
        clip = page.locator(".compare .video-pane").nth(1).evaluate("node => getComputedStyle(node).clipPath")
        assert float(clip.split()[-1].rstrip("%)")) == pytest.approx(100 * share, abs=1.0)
        edge = page.locator(".compare .divider").bounding_box()
        assert edge["x"] + edge["width"] / 2 == pytest.approx(boxes[0]["x"] + share * boxes[0]["width"], abs=2.0)
    page.locator(".compare .scrub").fill("2")
    wait_for_one_frame(page, 2)


def test_the_difference_of_equal_videos_is_black_and_of_different_ones_is_not(page) -> None:
    """Oracle: with the tuned video replaced by the base video, nothing is left."""
    page.locator(".compare .segments button", has_text="Difference").click()
    page.locator(".compare .scrub").fill("3")
    wait_for_one_frame(page, 3)
    pane = page.locator(".compare .videos")
    assert brightest(pane.screenshot()) > 20
    page.evaluate(
        """() => new Promise((resolve) => { const [base, tuned] = document.querySelectorAll(".compare video");
          const at = base.currentTime; window.__tuned = tuned.src; tuned.src = base.src;
          const drawn = () => requestAnimationFrame(() => requestAnimationFrame(resolve));
          tuned.addEventListener("seeked", drawn, { once: true });
          tuned.currentTime = at; })"""
    )
    assert brightest(pane.screenshot()) <= 3
    page.evaluate("document.querySelectorAll('.compare video')[1].src = window.__tuned")
    page.locator(".compare .segments button", has_text="Side by side").click()


def brightest(png: bytes) -> int:
    """The largest channel value away from the pane's rounded corners, where the page shows through."""
    from io import BytesIO

    import numpy as np
    from PIL import Image

    picture = np.asarray(Image.open(BytesIO(png)).convert("RGB"))
    inset = picture.shape[0] // 10
    return int(picture[inset:-inset, inset:-inset].max())


def test_turning_one_scene_turns_the_other(page) -> None:
    """The copied events reach the other player at the same place."""
    page.evaluate(
        """() => {
          const inner = document.querySelectorAll(".compare iframe")[1].contentDocument;
          window.__seen = [];
          for (const type of ["pointerdown", "pointermove"]) inner.addEventListener(type, (event) =>
            window.__seen.push([type, Math.round(event.clientX), Math.round(event.clientY), event.isTrusted]));
        }"""
    )
    box = page.locator(".compare .scene-pane").nth(0).bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 90)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 100, steps=3)
    page.mouse.up()
    seen = page.evaluate("window.__seen")
    assert seen[0][0] == "pointerdown"
    assert seen[-1] == ["pointermove", 90, 100, False]


def test_a_reload_comes_back_to_the_pair(page) -> None:
    page.locator(".compare .scrub").fill("0")
    assert "pair=" in page.url
    page.reload()
    page.locator(".compare h2", has_text=PROMPT).wait_for()
    page.locator(".compare .player.ready").nth(1).wait_for()
    page.locator(".compare .curves .nsewdrag").first.wait_for()
    wait_for_one_frame(page, 0)


def test_many_prompts_are_drawn_and_a_dot_opens_its_prompt(page) -> None:
    page.locator("#compare-mode label", has_text="Many prompts").click()
    page.locator("#comparison .empty").wait_for()
    page.locator("#compare-count input[type=number]").fill("3")
    page.locator("#compare-count input[type=number]").blur()
    page.locator(".guided input").nth(1).check()
    page.locator("#compare-adapter input").click()
    page.get_by_role("option", name="Base model").click()
    page.locator("#compare").click()
    page.locator("#comparison a", has_text="comparison.json").wait_for()
    row = page.locator('#comparison [data-reward="motion_smoothness"]')
    assert row.locator(".pair").count() == 3
    assert "95 % interval" in row.locator(".sentence").inner_text()
    label = row.locator(".pair").nth(1).get_attribute("aria-label")
    row.locator(".pair").nth(1).click()
    page.locator("#compare-prompt textarea").wait_for()
    assert label.startswith(page.locator("#compare-prompt textarea").input_value())
    assert page.locator("#compare").inner_text() == "Compare"


def test_nothing_overflows_on_a_phone_and_every_tab_is_in_reach(page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for tab in ("Generate & inspect", "Fine-tune", "Gallery", "About", "Compare"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_raised_no_script_error(page) -> None:
    assert page.errors == []
