"""Models that lie ready on a machine, and the GPU that its driver sees."""

import subprocess
import sys
from pathlib import Path

import pytest

from vggrpo.generation.options import LoadOptions
from vggrpo.presets import get_preset
from vggrpo.runtime import gpu
from vggrpo.runtime.local_models import MODELS, LocalModels, local_models

WAN = get_preset("wan2.1-t2v-1.3b")


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / WAN.name
    for name in ("pipeline", "latent-geometry"):
        (folder / name).mkdir(parents=True)
    monkeypatch.setenv(MODELS, str(tmp_path))
    return folder


def test_what_lies_there_is_found_part_by_part(ready: Path) -> None:
    assert local_models(WAN.name) == LocalModels(pipeline=ready / "pipeline", latent_geometry=ready / "latent-geometry")
    assert local_models("wan2.2-ti2v-5b") == LocalModels()
    assert local_models(WAN.name, {}) == LocalModels()


def test_what_the_user_says_comes_first(ready: Path, tmp_path: Path) -> None:
    found = LoadOptions().at_hand(WAN)
    assert (found.model_folder, found.latent_geometry) == (ready / "pipeline", ready / "latent-geometry")
    own = LoadOptions(latent_geometry=tmp_path).at_hand(WAN)
    assert (own.model_folder, own.latent_geometry) == (ready / "pipeline", tmp_path)
    assert LoadOptions().at_hand(get_preset("tiny")) == LoadOptions()


def test_a_latent_geometry_model_is_not_put_behind_another_video_model(ready: Path, tmp_path: Path) -> None:
    assert LoadOptions(model_folder=tmp_path).at_hand(WAN).latent_geometry is None
    assert LoadOptions(geometry="vggt").at_hand(WAN).latent_geometry is None
    assert LoadOptions(geometry="any4d").at_hand(WAN).latent_geometry == ready / "latent-geometry"


class Driver:
    """NVIDIA's management library with so many GPUs, or one that does not start."""

    def __init__(self, gpus: int, *, status: int = 0) -> None:
        self.gpus, self.status, self.closed = gpus, status, False

    def nvmlInit_v2(self) -> int:  # noqa: N802 - the library's names
        return self.status

    def nvmlDeviceGetCount_v2(self, count: object) -> int:  # noqa: N802
        count._obj.value = self.gpus
        return 0

    def nvmlShutdown(self) -> int:  # noqa: N802
        self.closed = True
        return 0


@pytest.mark.parametrize(("driver", "expected"), [(Driver(2), True), (Driver(0), False), (Driver(1, status=9), False)])
def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch, driver: Driver, expected: bool) -> None:
    monkeypatch.setattr(gpu.platform, "system", lambda: "Linux")
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda _name: driver)
    gpu.has_gpu.cache_clear()
    try:
        assert gpu.has_gpu() is expected
    finally:
        gpu.has_gpu.cache_clear()
    assert driver.closed == (driver.status == 0)


def test_no_driver_no_gpu_and_no_torch() -> None:
    code = "import sys\nfrom vggrpo.runtime.gpu import has_gpu\nhas_gpu()\nprint('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stdout.split() == ["False"], ended.stderr
