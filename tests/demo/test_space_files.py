"""The repository's root is a Space: the front matter of README.md, and what is installed there."""

import re
import sys
from importlib.metadata import version
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
ZERO_GPU_TORCH = {"2.8.0", "2.9.1", "2.10.0", "2.11.0"}
"""What ZeroGPU runs."""


def front_matter():
    return yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def requirements(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    stripped = [line.split("#")[0].strip() for line in lines]
    return {found.name: found for found in (Requirement(line) for line in stripped if line and line[0] != "-")}


def test_the_front_matter_is_what_a_space_takes():
    told = front_matter()
    assert {told["colorFrom"], told["colorTo"]} <= COLOURS
    assert len(told["short_description"]) <= 60
    assert (told["sdk"], told["license"]) == ("gradio", "apache-2.0")
    assert (ROOT / told["app_file"]).is_file()
    assert re.fullmatch(r"3\.1[123]", told["python_version"])
    assert re.search(r"^demo = |^    demo = ", (ROOT / told["app_file"]).read_text(), flags=re.MULTILINE)
    assert len((ROOT / told["app_file"]).read_text().splitlines()) <= 40


def test_the_spaces_gradio_is_the_one_that_is_required_and_tested():
    pin = str(requirements("requirements.txt")["gradio"].specifier)
    assert pin == f"=={front_matter()['sdk_version']}" == f"=={version('gradio')}"


def test_the_models_that_are_named_are_those_of_the_presets():
    from vggrpo.presets import PRESETS

    assert front_matter()["models"] == [preset.hub.repo for preset in PRESETS.values() if preset.hub is not None]


def test_the_spaces_torch_is_one_that_zero_gpu_runs_and_that_we_take():
    pinned = requirements("pre-requirements.txt")["torch"]
    (torch_version,) = (bound.version for bound in pinned.specifier)
    assert torch_version in ZERO_GPU_TORCH
    for candidate in ZERO_GPU_TORCH:
        assert candidate in requirements("requirements.txt")["torch"].specifier


def test_what_a_space_brings_itself_is_not_asked_for():
    """``spaces`` is installed there and nowhere else."""
    assert "spaces" not in requirements("requirements.txt")
    assert "spaces" not in sys.modules


def test_apt_packages_are_those_that_open3d_is_linked_to():
    packages = set((ROOT / "packages.txt").read_text().split())
    assert packages == {"libusb-1.0-0", "libgl1", "libegl1", "libx11-6", "libudev1", "libidn2-0"}
