"""Figure (b) from the page, in a real browser, with the real trainer: start, watch, stop, resume, reload, compare."""

import re
import time

import pytest

from tests.demo.test_browser import PATIENCE_MS, address, visit

pytestmark = pytest.mark.browser

__all__ = ["address"]  # the fixture: ``python app.py`` on a free port

SETTINGS = {"iterations": 60, "groups": 1, "group_size": 2, "scene_smoothness": 0}
"""Small enough for a test, long enough that Stop comes before the end, and of random weights only the camera's path can
always be judged."""


@pytest.fixture(scope="module")
def page(address):
    """The page on its Fine-tune tab."""
    with visit(address, width=1200, height=900) as page:
        page.get_by_role("tab", name="Fine-tune").click()
        yield page


def board(page):
    return page.locator(".board")


def wait_for_state(page, *states):
    page.wait_for_function(
        "states => states.includes(document.querySelector('.board').dataset.state)", arg=list(states)
    )


def wait_for_iteration(page, least):
    page.wait_for_function("least => Number(document.querySelector('.board').dataset.iteration) >= least", arg=least)


def iteration(page):
    return int(board(page).get_attribute("data-iteration"))


def test_before_the_first_fine_tune_the_page_says_what_this_is(page):
    board(page).locator(".empty h2", has_text="No fine-tune yet").wait_for()
    page.locator("#estimate .estimate", has_text="not known yet").wait_for()


def test_a_mistake_is_one_line_and_nothing_starts(page):
    page.locator("#finetune-source label", has_text="My own").click()
    page.locator("#finetune-prompts textarea").fill("  ")
    page.locator("#finetune-start").click()
    page.locator("#finetune-notice .error", has_text="there are no prompts").wait_for()
    page.locator("#finetune-source label", has_text="Random scenes").click()


def test_start_and_watch_two_iterations_arrive(page):
    for name, value in SETTINGS.items():
        field = page.locator(f"#finetune-{name} input[type=number]")
        field.fill(str(value))
        field.blur()
    page.locator("#finetune-start").click()
    wait_for_state(page, "running")
    wait_for_iteration(page, 1)
    first = iteration(page)
    wait_for_iteration(page, first + 1)
    curves = board(page).locator(".chart").first
    curves.locator(".curve-label", has_text="Camera motion").locator(
        ".now", has_text=re.compile(r"0\.\d{3}")
    ).wait_for()
    curves.locator(".scatterlayer path").first.wait_for(state="attached")
    assert "iteration" in board(page).locator(".log").inner_text()
    assert f"of {SETTINGS['iterations']}" in board(page).locator(".state").inner_text()


def test_stop_keeps_a_checkpoint(page):
    board(page).locator("[data-action=stop]").click()
    wait_for_state(page, "stopped")
    stopped_at = iteration(page)
    assert 0 < stopped_at < SETTINGS["iterations"]
    assert f"The checkpoint of iteration {stopped_at} is kept." in board(page).locator(".state").inner_text()


def test_resume_goes_on_and_a_reload_finds_it_again(page):
    stopped_at = iteration(page)
    job = board(page).get_attribute("data-job")
    board(page).locator("[data-action=resume]").click()
    wait_for_state(page, "running")
    wait_for_iteration(page, stopped_at + 1)
    page.wait_for_function("job => new URL(location.href).searchParams.get('job') === job", arg=job)
    page.reload()
    page.locator(f'.board[data-job="{job}"]').wait_for()
    assert iteration(page) > stopped_at
    board(page).locator("[data-action=stop]").click()
    wait_for_state(page, "stopped")


def test_the_adapter_can_be_taken_away_and_used_in_compare(page):
    job = board(page).get_attribute("data-job")
    with page.expect_download() as download:
        board(page).locator(".stage-head a", has_text="Adapter").click()
    content = download.value.path().read_bytes()
    # safetensors: eight bytes of length, then a JSON header that names LoRA matrices
    assert b"lora_A" in content[8 : 8 + int.from_bytes(content[:8], "little")]
    label = board(page).locator("h2").inner_text().removeprefix("Fine-tune of ")
    board(page).locator("[data-action=use]").click()
    chosen = page.locator("#compare-adapter input")
    chosen.wait_for()
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while label not in (shown := chosen.input_value()):
        assert time.monotonic() < deadline, f"{job} was to be compared, but the list shows {shown!r}"
        time.sleep(0.1)


def test_nothing_overflows_on_a_phone(page):
    page.get_by_role("tab", name="Fine-tune").click()
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_raised_no_script_error(page):
    assert page.errors == []
