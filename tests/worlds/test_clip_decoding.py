"""Clips out of files. Oracles: frames that carry their number, gradients whose means are known, exact box filters."""

from pathlib import Path

import av
import numpy as np
import pytest

from tests.worlds.real_videos import (
    counting_frames,
    numbers_of,
    write_counting_images,
    write_counting_video,
    write_lossless,
)
from vggrpo.worlds.clip_decoding import ClipShape, UnusableVideo, VideoClip, VideoSource, read_clip, seconds_of
from vggrpo.worlds.frame_resizing import crop_and_resize

SHAPE = ClipShape(num_frames=5, height=16, width=24, fps=8)


def source_of(path: Path, **options: object) -> VideoSource:
    return VideoSource(name=path.name, files=(path,), **options)


def numbers(path: Path, *, start: float = 0.0, shape: ClipShape = SHAPE, **options: object) -> list[int]:
    return numbers_of(read_clip(VideoClip(source=source_of(path, **options), start=start, shape=shape)))


@pytest.mark.parametrize("start", [0, 1, 7, 19])
def test_a_clip_is_the_frames_from_its_start_on(tmp_path: Path, start: int) -> None:
    """Key frames lie every 12 frames or so, so the starts lie before, on and between them."""
    path = write_counting_video(tmp_path / "a.mp4", 24)
    assert numbers(path, start=start / 8) == list(range(start, start + 5))


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (8, [2, 3, 4, 5, 6]),
        (4, [2, 4, 6, 8, 10]),
        (16, [2, 2, 3, 3, 4]),
        (5, [2, 3, 5, 6, 8]),  # at 0, 0.2, 0.4 … seconds frames 0, 1.6, 3.2, 4.8, 6.4 are on screen
    ],
)
def test_another_rate_repeats_or_leaves_out_frames(tmp_path: Path, fps: float, expected: list[int]) -> None:
    path = write_counting_video(tmp_path / "a.mp4", 24)
    shape = ClipShape(num_frames=5, height=16, width=24, fps=fps)
    assert numbers(path, start=2 / 8, shape=shape) == expected


def test_between_two_frames_the_earlier_one_is_on_screen(tmp_path: Path) -> None:
    path = write_counting_video(tmp_path / "a.mp4", 24)
    assert numbers(path, start=3.9 / 8) == [3, 4, 5, 6, 7]


def test_times_rounded_to_thousandths_move_no_frame(tmp_path: Path) -> None:
    """30 frames a second in Matroska: times 0.033, 0.067, 0.1 …"""
    path = write_lossless(tmp_path / "a.mkv", counting_frames(20), fps=30)
    shape = ClipShape(num_frames=5, height=16, width=24, fps=30)
    for start in range(12):
        assert numbers(path, start=start / 30, shape=shape) == list(range(start, start + 5))


def test_a_stretch_counts_from_its_own_start(tmp_path: Path) -> None:
    path = write_counting_video(tmp_path / "a.mp4", 24)
    stretch = source_of(path, end=2.5)
    assert seconds_of(stretch, fps=8) == pytest.approx(2.5)
    moved = VideoSource(name="a", files=(path,), start=1.0, end=2.5)
    assert seconds_of(moved, fps=8) == pytest.approx(1.5)
    assert numbers_of(read_clip(VideoClip(source=moved, start=0.25, shape=SHAPE))) == [10, 11, 12, 13, 14]


def test_the_last_frame_is_shown_until_the_end(tmp_path: Path) -> None:
    path = write_counting_video(tmp_path / "a.mp4", 10)
    assert seconds_of(source_of(path), fps=8) == pytest.approx(10 / 8)
    shape = ClipShape(num_frames=4, height=16, width=24, fps=16)
    assert numbers(path, start=8 / 8, shape=shape) == [8, 8, 9, 9]
    with pytest.raises(UnusableVideo, match="only 3 of 5"):
        numbers(path, start=7 / 8)


def test_nothing_behind_the_clip_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames turned into pixels: those of the clip, and no others."""
    path = write_counting_video(tmp_path / "a.mp4", 24)
    prepared: list[tuple[int, ...]] = []

    def recording(image: np.ndarray, **options: object) -> np.ndarray:
        prepared.append(image.shape)
        return crop_and_resize(image, **options)

    monkeypatch.setattr("vggrpo.worlds.clip_decoding.crop_and_resize", recording)
    numbers(path, start=1.0)
    assert len(prepared) == 5


def test_images_are_frames_in_order(tmp_path: Path) -> None:
    write_counting_images(tmp_path, 12)
    source = VideoSource(name="scene", files=tuple(sorted(tmp_path.iterdir())), is_images=True)
    assert seconds_of(source, fps=8) == 12 / 8
    clip = VideoClip(source=source, start=3 / 8, shape=SHAPE)
    assert numbers_of(read_clip(clip)) == [3, 4, 5, 6, 7]
    (tmp_path / "frame_00006.png").write_bytes(b"no image")
    with pytest.raises(UnusableVideo, match=r"frame_00006\.png cannot be read"):
        read_clip(clip)


def test_damaged_files_say_why(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("hello\n" * 50)
    with pytest.raises(UnusableVideo, match="cannot be read as a video"):
        seconds_of(source_of(text), fps=8)
    noise = np.random.default_rng(0).integers(0, 255, (24, 64, 64, 3)).astype(np.uint8)
    path = write_lossless(tmp_path / "cut.mkv", noise)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(UnusableVideo):
        read_clip(VideoClip(source=source_of(path), start=12 / 8, shape=SHAPE))


def test_a_turned_video_comes_upright(tmp_path: Path) -> None:
    """What phones write: lying pixels and a turn. Red is the upper half once it stands."""
    lying = np.zeros((8, 32, 48, 3), dtype=np.uint8)
    lying[:, :, :24, 0] = 200  # the left half, which a quarter turn clockwise brings to the top
    straight = write_lossless(tmp_path / "lying.mkv", lying)
    turned = tmp_path / "turned.mov"
    _remux_turned(straight, turned)
    shape = ClipShape(num_frames=2, height=48, width=32, fps=8)
    frames = read_clip(VideoClip(source=source_of(turned), start=0, shape=shape))
    halves = frames[0, :24, :, 0].mean(), frames[0, 24:, :, 0].mean()
    assert halves == (200, 0)


def _remux_turned(path: Path, out: Path) -> None:
    """Write the same pixels with a display matrix of a quarter turn clockwise into the file's header."""
    with av.open(str(path)) as given, av.open(str(out), "w", format="mov") as container:
        stream = container.add_stream("png", rate=8)
        stream.height, stream.width = 32, 48
        stream.pix_fmt = "rgb24"
        for frame in given.decode(video=0):
            container.mux(stream.encode(frame.reformat(format="rgb24")))
        container.mux(stream.encode())
    content = out.read_bytes()
    identity = b"".join(number.to_bytes(4, "big") for number in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    turn = (0, 1 << 16, 0, (1 << 32) - (1 << 16), 0, 0, 32 << 16, 0, 1 << 30)
    place = content.index(identity, content.index(b"tkhd"))
    quarter = b"".join(number.to_bytes(4, "big") for number in turn)
    out.write_bytes(content[:place] + quarter + content[place + len(identity) :])


def test_resizing_is_the_mean_over_areas() -> None:
    """By whole factors: block means, exactly."""
    image = np.random.default_rng(0).integers(0, 256, (48, 72, 3)).astype(np.uint8)
    expected = image.reshape(16, 3, 24, 3, 3).mean(axis=(1, 3))
    assert np.abs(crop_and_resize(image, height=16, width=24) - expected).max() <= 0.5 + 1e-9


def test_partly_covered_pixels_count_in_part() -> None:
    """5 pixels to 2: each target covers two and a half."""
    values = np.array([10, 20, 30, 40, 50], dtype=np.uint8)
    image = np.broadcast_to(values[None, :, None], (5, 5, 3))
    resized = crop_and_resize(np.ascontiguousarray(image), height=2, width=2)
    assert resized[0, :, 0].tolist() == [round((10 + 20 + 15) / 2.5), round((15 + 40 + 50) / 2.5)]


@pytest.mark.parametrize(("height", "width"), [(20, 20), (10, 30), (30, 10), (20, 24)])
def test_the_crop_is_the_middle_whatever_the_shape(height: int, width: int) -> None:
    """A gradient along both axes: the mean of the result is the value in the image's centre, edges are symmetric."""
    rows, columns = np.mgrid[0:60, 0:100]
    image = np.stack([rows * 2, columns * 2, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    resized = crop_and_resize(image, height=height, width=width).astype(float)
    assert resized[..., 0].mean() == pytest.approx(59, abs=0.5)
    assert resized[..., 1].mean() == pytest.approx(99, abs=0.5)
    scale = min(60 / height, 100 / width)
    step = np.diff(resized[0, :, 1]).mean()
    assert step == pytest.approx(2 * scale, abs=0.2), "columns are as far apart as rows: nothing is stretched"
    assert np.diff(resized[:, 0, 0]).mean() == pytest.approx(2 * scale, abs=0.2)


def test_pixels_that_are_not_square_are_made_square() -> None:
    """Pixels twice as wide as high: 40 x 40 of them are a picture of 2 : 1."""
    columns = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, :, None] * 5, (40, 40, 3))
    resized = crop_and_resize(np.ascontiguousarray(columns), height=20, width=40, pixel_aspect=2.0)
    assert resized[0, :, 0].tolist() == columns[0, :, 0].tolist()


def test_a_small_image_grows_linearly() -> None:
    values = np.array([0, 100], dtype=np.uint8)
    image = np.ascontiguousarray(np.broadcast_to(values[None, :, None], (2, 2, 3)))
    assert crop_and_resize(image, height=4, width=4)[0, :, 0].tolist() == [0, 25, 75, 100]
