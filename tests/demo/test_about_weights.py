"""What About says of the embedded weights is what the manifest holds."""

import re
from html import unescape
from pathlib import Path

from demo.panels.about import about_figures
from demo.panels.about_weights import SHEET, weights_html

ROWS = {
    "vae/psnr": {
        "part": "VAE",
        "name": "PSNR",
        "unit": "dB",
        "value": 31.24,
        "low": 30.5,
        "high": 32.0,
        "target": 30.0,
        "at_most": False,
        "reached": True,
    },
    "objects": {
        "part": "video <model>",
        "name": "objects",
        "unit": "%",
        "value": 0.25,
        "low": None,
        "high": None,
        "target": 0.85,
        "at_most": False,
        "reached": False,
    },
    "moves": {
        "part": "video model",
        "name": "camera moves",
        "unit": "%",
        "value": None,
        "low": None,
        "high": None,
        "target": 0.9,
        "at_most": False,
        "reached": None,
    },
    "detail": {"part": "", "name": "only explains", "unit": "", "value": 1.0, "low": 0.0, "high": 2.0},
}


def lines(html: str) -> list[str]:
    body = html.split("<tbody>")[1].split("</tbody>")[0]
    return [unescape(" ".join(re.sub(r"<[^>]+>", " ", row).split())) for row in body.split("</tr>") if row]


def test_every_target_is_told_with_what_was_reached(tmp_path: Path) -> None:
    html = weights_html({"evaluation": {"clips": 64, "rows": ROWS}}, assets=tmp_path)
    assert lines(html) == [
        "VAE: PSNR 31.2 dB ✓ 30.5 dB to 32 dB ≥ 30 dB",
        "video <model>: objects 25.0 % – ≥ 85.0 %",
        "video model: camera moves – – ≥ 90.0 %",
    ]
    assert "On 64 held-out worlds" in html
    assert "<img" not in html


def test_without_a_measurement_nothing_is_said(tmp_path: Path) -> None:
    assert weights_html({}, assets=tmp_path) == ""
    assert weights_html({"evaluation": {"rows": {}}}, assets=tmp_path) == ""


def test_the_sheet_is_shown_and_served(tmp_path: Path) -> None:
    (tmp_path / SHEET).write_bytes(b"RIFF")
    assert SHEET in weights_html({}, assets=tmp_path)
    assert about_figures(tmp_path) == (tmp_path / SHEET,)
