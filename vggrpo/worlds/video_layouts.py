"""The layouts in which videos lie in a folder: any folder of videos, DL3DV-10K, RealEstate10K and MiraData.

Each function says what it expects, and what of that is our own convention. None of these data sets was at hand while
this was written; the layouts are those of their documentation and download scripts.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import parse_qs, urlparse

from PIL import Image, UnidentifiedImageError

from vggrpo.runtime.errors import UserError
from vggrpo.worlds.clip_decoding import ClipShape, VideoSource
from vggrpo.worlds.video_captions import TABLE_NAMES, Captions, read_rows, sidecar_caption
from vggrpo.worlds.video_folder import IMAGE_SUFFIXES, VIDEO_SUFFIXES, ConfinedFolder, VideoListing

Layout = Literal["auto", "folder", "dl3dv", "realestate10k", "miradata"]
DL3DV_IMAGES = ("images_8", "images_4", "images_2", "images")
"""Folders of one scene's images from the smallest to the full size."""
MIRADATA_CAPTIONS = ("dense_caption", "short_caption", "caption")
_MICROSECONDS = 1e6
_MAX_POSES_BYTES = 16 * 2**20
_CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def list_videos(root: Path, *, shape: ClipShape, layout: Layout = "auto", captions: Path | None = None) -> VideoListing:
    """The videos of a folder. ``captions`` is a table, besides those that the folder brings itself.

    Raises:
        UserError: there is no such folder, a table cannot be read, or not one video was found.
    """
    if layout not in get_args(Layout):
        raise UserError(f"There is no layout {layout!r}: choose one of {', '.join(get_args(Layout))}.")
    folder = ConfinedFolder(root)
    files = list(folder.files())
    if layout == "auto":
        layout = _detected(files)
    tables = [] if captions is None else [captions]
    tables += [path for path in files if path.parent == root and path.name in TABLE_NAMES]
    # The table that was named goes before those that were found.
    named = {name: caption for table in reversed(tables) for name, caption in Captions.read(table).by_name.items()}
    sources = _READERS[layout](folder, files, Captions(by_name=named), shape)
    if not sources:
        refused = f" ({len(folder.skipped)} refused, the first: {folder.skipped[0].reason})" if folder.skipped else ""
        raise UserError(f"{root} holds no video that can be read in the layout {layout!r}{refused}; see --layout.")
    return VideoListing(folder=root, layout=layout, sources=tuple(sources), skipped=tuple(folder.skipped))


def _detected(files: list[Path]) -> Layout:
    """The layout that a folder's files look like."""
    if any(_is_miradata_table(path) for path in files if path.suffix == ".csv"):
        return "miradata"
    if any(_youtube_id(path) for path in files if path.suffix == ".txt"):
        return "realestate10k"
    if any(path.parent.name in DL3DV_IMAGES for path in files if path.suffix.lower() in IMAGE_SUFFIXES):
        return "dl3dv"
    return "folder"


def read_plain_folder(
    folder: ConfinedFolder, files: list[Path], captions: Captions, _shape: ClipShape
) -> list[VideoSource]:
    """Any folder: every video file below it, each with the caption of ``name.txt`` beside it or of a table."""
    sources = []
    for path in files:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            name = folder.name_of(path)
            caption = sidecar_caption(path.with_suffix(".txt")) or captions.of(name)
            sources.append(VideoSource(name=name, files=(path,), caption=caption))
    return sources


def read_dl3dv(folder: ConfinedFolder, files: list[Path], captions: Captions, shape: ClipShape) -> list[VideoSource]:
    """DL3DV-10K (https://github.com/DL3DV-10K/Dataset): a folder a scene, named by its hash, in folders 1K … 11K.

    A scene of the released images holds ``transforms.json`` and ``images_8`` (480P), ``images_4`` (960P) or ``images``
    with ``frame_00001.png`` and so on; the benchmark puts them below ``<hash>/nerfstudio``. Of several sizes the
    smallest is taken that is no smaller than the clips. The images are consecutive views of one walk without a rate,
    so each is one frame of a clip. Scenes that are video files are read as such. There are no captions in the release:
    give a table whose file names are the scenes' hashes or paths.
    """
    scenes: dict[Path, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    sources = read_plain_folder(folder, files, captions, shape)
    for path in files:
        if path.suffix.lower() in IMAGE_SUFFIXES and path.parent.name in DL3DV_IMAGES:
            scenes[path.parent.parent][path.parent.name].append(path)
    for scene, by_size in scenes.items():
        images = _smallest_sufficient(by_size, shape)
        name = folder.name_of(scene)
        hashed = name.removesuffix("/nerfstudio").removesuffix("/gaussian_splat")
        caption = captions.of(hashed) or captions.of(name)
        sources.append(
            VideoSource(name=name, files=tuple(sorted(images, key=_by_number)), is_images=True, caption=caption)
        )
    return sources


def read_realestate10k(
    folder: ConfinedFolder, files: list[Path], captions: Captions, _shape: ClipShape
) -> list[VideoSource]:
    """RealEstate10K (https://google.github.io/realestate10k): a text file a clip, in folders ``train`` and ``test``.

    The first line is the address of a YouTube video, every further one a frame: its time in microseconds, four
    intrinsics, two zeros and a 3 × 4 pose (19 numbers, of which only the time is read). Videos are not released; by our
    convention they lie somewhere below the folder (say in ``videos``) under their YouTube name, ``<id>.mp4``.
    Captions come from a table by the text file's name.
    """
    videos = {path.stem: path for path in files if path.suffix.lower() in VIDEO_SUFFIXES}
    sources = []
    for path in files:
        video_id = _youtube_id(path) if path.suffix == ".txt" else None
        if video_id is None:
            continue
        if video_id not in videos:
            folder.skip(path, f"its video {video_id} is not in the folder")
            continue
        times = _frame_times(path)
        if len(times) < 2 or times[-1] <= times[0]:
            folder.skip(path, "its lines are no times of frames")
            continue
        name = folder.name_of(path)
        # The last frame is shown as long as the others.
        end = times[-1] + (times[-1] - times[0]) / (len(times) - 1)
        sources.append(
            VideoSource(name=name, files=(videos[video_id],), start=times[0], end=end, caption=captions.of(name))
        )
    return sources


def read_miradata(
    folder: ConfinedFolder, files: list[Path], captions: Captions, _shape: ClipShape
) -> list[VideoSource]:
    """MiraData (https://github.com/mira-space/MiraData): a CSV of clips, and the videos that its script downloads.

    Version 1: ``clip_id``, ``file_path`` (the cut clip, below the folder of clips), ``timestamp`` (a list of two clock
    times HH:MM:SS.mmm) and captions of six kinds; the uncut video is ``raw_video/<clip_id as twelve digits>.mp4``.
    Version 0: ``index`` (``<video>-<clip>``, the cut clip's name), ``start_frame``, ``end_frame`` and ``fps``; the
    uncut video is named by the first half of the index. Cut clips are taken whole, uncut videos within their times.
    Of the captions the dense one is taken, else the short one; a table given besides goes before both.
    """
    videos: dict[str, Path] = {}
    for path in (path for path in files if path.suffix.lower() in VIDEO_SUFFIXES):
        # Under every end of its path: the folder that was given may be the clips' own, or one above it.
        parts = Path(folder.name_of(path)).parts
        videos |= {"/".join(parts[start:]): path for start in range(len(parts))}
    sources = []
    for table in (path for path in files if path.suffix == ".csv" and _is_miradata_table(path)):
        for row in read_rows(table):
            places = _miradata_places(row)
            caption = captions.of(places.identity) or _row_caption(row)
            name = f"{folder.name_of(table)}#{places.identity}"
            if cut := videos.get(places.cut):
                sources.append(VideoSource(name=name, files=(cut,), caption=caption))
            elif (uncut := videos.get(places.uncut)) is None:
                if folder.inside(places.cut) is not None:
                    folder.skip(table.with_name(f"{table.name}#{places.identity}"), "its file is no video")
            elif places.seconds is None:
                folder.skip(table.with_name(f"{table.name}#{places.identity}"), "its times cannot be read")
            else:
                start, end = places.seconds
                sources.append(VideoSource(name=name, files=(uncut,), start=start, end=end, caption=caption))
    return sources


@dataclass(frozen=True, kw_only=True, slots=True)
class _MiraPlaces:
    """Where a row's clip lies: cut, or within an uncut video."""

    identity: str
    cut: str
    uncut: str
    seconds: tuple[float, float] | None


def _miradata_places(row: Mapping[str, str]) -> _MiraPlaces:
    """Names of a row's files, by the version that its columns belong to."""
    if index := row.get("index", ""):
        frames = (row.get("start_frame", ""), row.get("end_frame", ""), row.get("fps", ""))
        numbers = [float(cell) for cell in frames if _NUMBER.fullmatch(cell)]
        seconds = (numbers[0] / numbers[2], numbers[1] / numbers[2]) if len(numbers) == 3 and numbers[2] > 0 else None
        video = index.partition("-")[0]
        return _MiraPlaces(identity=index, cut=f"{index}.mp4", uncut=f"{video}.mp4", seconds=_in_order(seconds))
    clip = row.get("clip_id", "").strip()
    clock = [3600 * int(h) + 60 * int(m) + float(s) for h, m, s in _CLOCK.findall(row.get("timestamp", ""))]
    return _MiraPlaces(
        identity=clip,
        cut=row.get("file_path", "").strip() or f"{clip}.mp4",
        uncut=f"raw_video/{clip.zfill(12)}.mp4",
        seconds=_in_order((clock[0], clock[1]) if len(clock) == 2 else None),
    )


def _in_order(seconds: tuple[float, float] | None) -> tuple[float, float] | None:
    return seconds if seconds and seconds[0] < seconds[1] else None


_READERS: Mapping[str, Callable[[ConfinedFolder, list[Path], Captions, ClipShape], list[VideoSource]]] = {
    "folder": read_plain_folder,
    "dl3dv": read_dl3dv,
    "realestate10k": read_realestate10k,
    "miradata": read_miradata,
}


def _smallest_sufficient(by_size: Mapping[str, list[Path]], shape: ClipShape) -> list[Path]:
    """The images of the smallest size that need not grow; the largest there is if all must."""
    present = [by_size[name] for name in DL3DV_IMAGES if name in by_size]
    for images in present:
        try:
            with Image.open(images[0]) as image:
                if image.height >= shape.height and image.width >= shape.width:
                    return images
        except (UnidentifiedImageError, OSError):
            continue
    return present[-1]


def _by_number(path: Path) -> list[str | int]:
    """``frame_10`` after ``frame_9``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _youtube_id(text: Path) -> str | None:
    """The video that a file of RealEstate10K begins with; None for any other text."""
    try:
        with text.open(encoding="utf-8") as file:
            address = urlparse(file.readline(500).strip())
    except (OSError, UnicodeDecodeError, ValueError):
        return None
    if address.scheme not in {"http", "https"}:
        return None
    return (parse_qs(address.query).get("v") or [address.path.rstrip("/").rpartition("/")[2]])[0] or None


def _frame_times(text: Path) -> list[float]:
    """Seconds of the frames of a file of RealEstate10K; empty if its lines are something else."""
    if text.stat().st_size > _MAX_POSES_BYTES:
        return []
    lines = [line.split() for line in text.read_text(encoding="utf-8", errors="replace").splitlines()[1:]]
    stamps = [line[0] for line in lines if line]
    return [int(stamp) / _MICROSECONDS for stamp in stamps] if all(stamp.isdigit() for stamp in stamps) else []


def _is_miradata_table(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig") as file:
            names = {name.strip(" \"'\n\r") for name in file.readline(10_000).split(",")}
    except (OSError, UnicodeDecodeError):
        return False
    return {"clip_id", "timestamp"} <= names or {"index", "start_frame", "end_frame"} <= names


def _row_caption(row: Mapping[str, str]) -> str | None:
    return next((row[name].strip() for name in MIRADATA_CAPTIONS if row.get(name, "").strip()), None)
