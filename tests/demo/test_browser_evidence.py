"""The evidence in a real browser: drawn when seen, chosen by its buttons, painted for the theme; and photographed.

The page is the sections' own HTML, styles and script without a server: About adds nothing to them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from demo import pictures
from demo.viewers.evidence import FIGURES, evidence_html, evidence_script, read_section
from demo.viewers.stage import plotly_script
from tests.demo.synthetic_results import write_results
from tests.demo.test_browser import CHROMIUM_FLAGS, PATIENCE_MS, find_chromium

pytestmark = pytest.mark.browser

DEMO = Path(pictures.__file__).parent
STYLES = ("static/page.css", "viewers/evidence.css")
SHOWN = """() => [...document.querySelectorAll('[data-result="contest"] .result-plot')].map((plot) =>
  [...new Set(plot.data.filter((trace) => trace.visible).map((trace) => trace.meta.clips))].join())"""
ALL_DRAWN = "() => [...document.querySelectorAll('.result-plot')].every((plot) => plot._fullLayout)"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    find_chromium()
    return write_results(tmp_path_factory.mktemp("results"), "contest", "robustness", "cost")


@pytest.fixture(scope="module")
def page(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A phone in the dark, at the top of the evidence; ``page.errors`` gathers what its scripts throw."""
    from playwright.sync_api import sync_playwright

    html = evidence_html([read_section(text, results=results) for text in FIGURES])
    styles = "\n".join((DEMO / name).read_text(encoding="utf-8") for name in STYLES)
    script = f"(function (element) {{\n{evidence_script(plotly_script().as_uri())}\n}})(document.body);"
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(
        f'<!doctype html><meta charset="utf-8"><style>{styles}</style>'
        f'<body class="dark">{html}<script>{script}</script></body>',
        encoding="utf-8",
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(CHROMIUM_FLAGS))
        opened = browser.new_page(viewport={"width": 390, "height": 800})
        opened.set_default_timeout(PATIENCE_MS)
        opened.errors = []
        opened.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.goto(file.as_uri())
        yield opened
        browser.close()


def test_figures_are_drawn_when_they_come_into_sight(page: Any) -> None:
    page.wait_for_function("() => document.querySelector('.result-plot')._fullLayout")
    last = page.locator(".result-plot").last
    assert last.evaluate("(plot) => plot._fullLayout === undefined")
    for index in range(page.locator(".result-plot").count()):
        page.locator(".result-plot").nth(index).scroll_into_view_if_needed()
    page.wait_for_function(ALL_DRAWN)
    assert page.errors == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_buttons_choose_the_prompts_of_figures_and_facts(page: Any) -> None:
    page.wait_for_function(ALL_DRAWN)
    assert set(page.evaluate(SHOWN)) == {"all"}
    page.get_by_role("button", name="Moving objects").click()
    page.wait_for_function(f"() => ({SHOWN})().every((clips) => clips === 'dynamic')")
    assert {node.get_attribute("data-of") for node in page.locator("small[data-of]:visible").all()} == {"dynamic"}
    assert page.get_by_role("button", name="Moving objects").get_attribute("aria-pressed") == "true"
    assert page.errors == []


def test_the_champion_has_the_accent_of_the_theme(page: Any) -> None:
    page.wait_for_function(ALL_DRAWN)
    colour = "(node) => getComputedStyle(node).stroke"
    accent = page.evaluate("() => getComputedStyle(document.querySelector('.evidence a')).color")
    dot = page.locator('[data-result="contest"] [class*="traceours"] .points path').first
    assert dot.evaluate(colour) == accent
    other = page.locator('[data-result="contest"] [class*="traceothers"] .points path').first
    assert other.evaluate(colour) == page.evaluate("() => getComputedStyle(document.querySelector('.evidence')).color")


def test_a_picture_shows_the_drawn_figure(results: Path) -> None:
    """The decoder's bar is a quarter of the longer one's length, in its own colour; nothing is cut off."""
    assert pictures.main(["--results", str(results), "cost"]) == 0
    picture = np.asarray(Image.open(results / "cost.png").convert("RGB")).astype(int)
    height, width, _ = picture.shape
    assert width == pictures.WIDTH * pictures.SCALE
    assert 300 * pictures.SCALE < height < 700 * pictures.SCALE
    decode = np.abs(picture - np.array([0xE8, 0x44, 0x1F])).max(axis=2) < 24
    geometry = np.abs(picture - np.array([0x4B, 0x51, 0x5C])).max(axis=2) < 24
    row = int(decode.sum(axis=1).argmax())
    assert geometry[row, : width // 2].sum() == pytest.approx(2 * decode[row].sum(), rel=0.05)
    assert (picture[-pictures.SCALE :] == 255).all()
