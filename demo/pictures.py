"""``python -m demo.pictures``: the figures of About as PNG files beside their numbers, for the README.

The page's own HTML, styles and scripts are photographed by a chromium without a window, in light colours: a picture
shows what About shows. Nothing is fetched; chromium is looked for on the PATH.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageChops

from demo.viewers.evidence import FIGURES, Section, evidence_html, evidence_script, read_section
from demo.viewers.stage import plotly_script

RESULTS = Path(__file__).resolve().parents[1] / "assets" / "results"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH = 1240
HEIGHTS = (2400, 9600)
"""CSS pixels; what is taller than the first is photographed again in the second. The empty rest is cut off."""
SCALE = 2
"""Pixels of the picture for one of CSS."""
COLOURS = 128
"""Of a picture's palette: flat drawings need few, and the repository keeps every version."""

_HERE = Path(__file__).parent
_STYLES = ("static/page.css", "viewers/evidence.css")
_FLAGS = (
    "--headless",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
    "--virtual-time-budget=20000",
)
_PATIENCE_SECONDS = 300
_PAPER = (255, 255, 255)
_MARGIN = 12


class PictureError(Exception):
    """No picture can be taken; the message says what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figures whose numbers are there. Exit code 2 for a mistake of the user's."""
    names = [text.name for text in FIGURES]
    parser = argparse.ArgumentParser(prog="python -m demo.pictures", description="Figures of About as PNG files.")
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(names)}; all that are recorded if not given")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of recorded results")
    asked = parser.parse_args(argv)
    try:
        for name in asked.names:
            if name not in names:
                raise PictureError(f"there is no figure {name!r}; choose from {', '.join(names)}.")
        chosen = [text for text in FIGURES if not asked.names or text.name in asked.names]
        sections = [read_section(text, results=asked.results) for text in chosen]
        for section in sections:
            _take(section, folder=asked.results, is_wanted=bool(asked.names))
    except PictureError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _take(section: Section, *, folder: Path, is_wanted: bool) -> None:
    """One figure's picture; what is not recorded is told, and an error where it was asked for by name."""
    if section.content is None:
        what = "cannot be read" if section.is_unreadable else "is not recorded"
        told = f"{section.text.name} {what}: run `{section.text.command}`."
        if is_wanted:
            raise PictureError(told)
        sys.stderr.write(f"{told}\n")
        return
    out = folder / f"{section.text.name}.png"
    photograph(picture_html(section), out=out)
    sys.stdout.write(f"{out}: {out.stat().st_size / 1e3:.0f} kB\n")


def picture_html(section: Section) -> str:
    """A page of one figure that needs nothing but files of this machine."""
    styles = "\n".join((_HERE / name).read_text(encoding="utf-8") for name in _STYLES)
    script = evidence_script(plotly_script().as_uri(), at_once=True)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<style>{_fonts()}body {{ margin: 0; font-family: 'IBM Plex Sans', sans-serif; }}\n{styles}</style></head>"
        f'<body class="picture">{evidence_html([section], is_picture=True)}'
        f"<script>(function (element) {{\n{script}\n}})(document.querySelector('.evidence'));</script></body></html>"
    )


def photograph(html: str, *, out: Path) -> None:
    """Write a PNG of a page, as tall as the page is.

    Raises:
        PictureError: there is no browser, or it did not draw the page.
    """
    with tempfile.TemporaryDirectory(prefix="vggrpo-picture-") as name:
        folder = Path(name)
        page, shot = folder / "page.html", folder / "shot.png"
        page.write_text(html, encoding="utf-8")
        for height in HEIGHTS:
            _browse(page, folder=folder, height=height, shot=shot)
            picture = Image.open(shot).convert("RGB")
            if picture.getpixel((0, 0)) != _PAPER:
                raise PictureError("the browser did not draw the figure in time: run this again on a quieter machine.")
            used = _used_height(picture)
            if used < picture.height:
                break
        packed = io.BytesIO()
        picture.crop((0, 0, picture.width, used)).quantize(COLOURS).save(packed, format="PNG", optimize=True)
    # Written beside its place and moved: nobody sees half a picture.
    half = out.with_name(f".{out.name}.part")
    half.write_bytes(packed.getvalue())
    half.replace(out)


def _used_height(picture: Image.Image) -> int:
    """The rows down to the last one that is not paper, with the page's own margin below."""
    box = ImageChops.difference(picture, Image.new("RGB", picture.size, _PAPER)).getbbox()
    return picture.height if box is None else min(picture.height, box[3] + _MARGIN * SCALE)


def _browse(page: Path, *, folder: Path, height: int, shot: Path) -> None:
    """Open a page and photograph it."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise PictureError("no chromium on the PATH: install it (apt-get install chromium) and run this again.")
    # Chromium's sandbox refuses to run as root, as in a container.
    as_root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    command = [
        browser,
        *_FLAGS,
        *as_root,
        f"--user-data-dir={folder / 'profile'}",
        f"--force-device-scale-factor={SCALE}",
        f"--window-size={WIDTH},{height}",
        f"--screenshot={shot}",
        page.as_uri(),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise PictureError(f"the browser took longer than {_PATIENCE_SECONDS} s.") from error
    if done.returncode or not shot.is_file():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PictureError(f"the browser took no picture: {last}")


def _fonts() -> str:
    """The page's type, from the files that Gradio ships; without them the system's own serves."""
    from importlib.util import find_spec

    spec = find_spec("gradio")
    if spec is None or spec.origin is None:
        return ""
    folder = Path(spec.origin).parent / "templates" / "frontend" / "static" / "fonts"
    faces = []
    for family in ("IBM Plex Sans", "IBM Plex Mono"):
        for style, weight in (("Regular", 400), ("Bold", 700)):
            plain = family.replace(" ", "")
            file = folder / plain / f"{plain}-{style}.woff2"
            if file.is_file():
                faces.append(
                    f"@font-face {{ font-family: '{family}'; font-weight: {weight}; src: url('{file.as_uri()}'); }}\n"
                )
    return "".join(faces)


if __name__ == "__main__":
    sys.exit(main())
