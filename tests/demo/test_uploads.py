"""Hostile and broken files: one clear line each, read in a process that may die."""

import io
import json
import os
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from demo import upload_service
from demo.environment import STRANGERS
from demo.job_queue import PageError
from demo.upload_service import admitted
from tests.demo.synthetic_run import render_clip
from vggrpo.runtime.run_folder import read_geometry, read_video, write_video

LIMITS = replace(STRANGERS, reading_seconds=30.0)


def refused(path, kind, limits=LIMITS):
    """The one line that a visitor gets."""
    with pytest.raises(PageError) as caught, admitted(path, kind=kind, limits=limits):
        pass
    line = str(caught.value)
    assert "\n" not in line
    assert str(path.parent) not in line
    assert path.name in line
    return line


def frames(count=5, size=32):
    return np.random.default_rng(0).integers(0, 255, (count, size, size, 3), dtype=np.uint8)


def huge_png(width, height):
    """A picture of any size in a few bytes: one that decodes to gigabytes of zeros."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(10_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_video_becomes_the_frames_that_our_own_reader_sees(tmp_path):
    write_video(tmp_path / "clip.mp4", frames(), fps=8)
    with admitted(tmp_path / "clip.mp4", kind="video", limits=LIMITS) as read:
        assert np.array_equal(np.load(read.path), read_video(tmp_path / "clip.mp4", max_frames=600).frames)
        assert read.facts == {"fps": 8.0, "has_more": False}
    assert not read.path.exists()


def test_a_long_video_is_read_as_far_as_its_share_of_memory_goes(tmp_path):
    write_video(tmp_path / "clip.mp4", frames(count=9), fps=8)
    limits = replace(LIMITS, video_bytes=4 * 32 * 32 * 3)
    with admitted(tmp_path / "clip.mp4", kind="video", limits=limits) as read:
        assert len(np.load(read.path)) == 4
        assert read.facts["has_more"]


def test_a_truncated_video_text_and_nothing_are_no_videos(tmp_path):
    write_video(tmp_path / "whole.mp4", frames(), fps=8)
    whole = (tmp_path / "whole.mp4").read_bytes()
    files = {"cut.mp4": whole[: len(whole) // 3], "text.mp4": b"not a video at all\n" * 50, "empty.mp4": b""}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert "video" in refused(tmp_path / name, "video")


def test_a_picture_of_enormous_size_in_a_tiny_file_is_refused_by_its_header(tmp_path):
    (tmp_path / "bomb.png").write_bytes(huge_png(100_000, 100_000))
    assert (tmp_path / "bomb.png").stat().st_size < 20_000
    assert "100000 × 100000 pixels" in refused(tmp_path / "bomb.png", "image")


def test_a_picture_that_would_need_too_much_memory_takes_only_its_reader_down(tmp_path):
    (tmp_path / "bomb.png").write_bytes(huge_png(30_000, 30_000))
    limits = replace(LIMITS, image_pixels=10**10, reading_memory=512 * 2**20)
    line = refused(tmp_path / "bomb.png", "image", limits)
    assert "memory" in line or "cannot be read as an image" in line


def test_an_archive_that_unpacks_to_gigabytes_is_refused_before_it_does(tmp_path):
    arrays = render_clip(num_frames=4, size=16).geometry
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, array)
            archive.writestr(f"{name}.npy", data.getvalue() if name != "depth" else bytes(300 * 2**20))
    assert (tmp_path / "bomb.npz").stat().st_size < 5 * 2**20
    assert "at most 0.25 GiB" in refused(tmp_path / "bomb.npz", "geometry")


def test_a_geometry_arrives_as_it_was_and_under_its_name(tmp_path):
    arrays = render_clip(num_frames=4, size=16).geometry
    np.savez_compressed(tmp_path / "mine.npz", **arrays)
    with admitted(tmp_path / "mine.npz", kind="geometry", limits=LIMITS) as read:
        assert read.path.name == "mine.npz"
        assert np.array_equal(read_geometry(read.path).depth, arrays["depth"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text, and not tensors",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 64) + json.dumps({"a": {"data_offsets": [0, 10**12]}}).encode().ljust(64),
    ],
)
@pytest.mark.parametrize("kind", ["latents", "adapter"])
def test_tensors_may_not_promise_more_than_the_file_holds(tmp_path, content, kind):
    (tmp_path / "lora.safetensors").write_bytes(content)
    assert "not a safetensors file" in refused(tmp_path / "lora.safetensors", kind)


def test_a_picture_comes_out_upright_plain_and_under_its_name(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGBA", (40, 20), (255, 0, 0, 128)).convert("RGB").save(tmp_path / "photo.jpg", exif=exif)
    with admitted(tmp_path / "photo.jpg", kind="image", limits=LIMITS) as read, Image.open(read.path) as image:
        assert (read.path.name, image.format, image.size, image.mode) == ("photo.jpg", "PNG", (20, 40), "RGB")
        assert not image.getexif()


def test_a_file_that_never_ends_is_given_up(tmp_path):
    os.mkfifo(tmp_path / "endless.safetensors")
    began = time.monotonic()
    assert "takes longer than" in refused(
        tmp_path / "endless.safetensors", "latents", replace(LIMITS, reading_seconds=0.6)
    )
    assert time.monotonic() - began < 20


def test_a_reader_that_is_killed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(upload_service, "_READER", "tests.demo.dying_reader")
    (tmp_path / "crash.mp4").write_bytes(b"x")
    assert "reading it failed" in refused(tmp_path / "crash.mp4", "video")


def test_a_cancel_ends_the_reader(tmp_path):
    os.mkfifo(tmp_path / "endless.safetensors")
    with (
        pytest.raises(PageError, match="Cancelled"),
        admitted(tmp_path / "endless.safetensors", kind="latents", limits=LIMITS, should_stop=lambda: True),
    ):
        pass


def test_a_reader_sees_none_of_the_servers_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr(upload_service, "_READER", "tests.demo.telling_reader")
    (tmp_path / "a.mp4").write_bytes(b"x")
    line = refused(tmp_path / "a.mp4", "video")
    assert "HF_TOKEN" not in line
    assert "PYTHONPATH" in line


def test_the_readers_bounds_are_the_systems():
    code = (
        "import resource\nfrom demo.upload_reader_service import limit_self\n"
        "limit_self(memory=2**30, seconds=5.0, written=1000)\n"
        "print(*[resource.getrlimit(k)[0] for k in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(2**30), "6", "1000"]
