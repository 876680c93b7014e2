"""Reads one file that a stranger sent: a process of its own with little memory, little time and nothing else to lose.

``python -m demo.upload_reader_service REQUEST``, the request and the answer being JSON objects (``demo.upload_service``
starts it). What comes out is plain: frames or arrays that cannot unpack to more than they are, a picture in one known
format. So a file that crashes its decoder, never ends or wants all memory takes this process down and not the page.
"""

import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

MOST_FRAMES = 600
"""As many as ``vggrpo.scoring`` looks at."""
MOST_HEADER = 8 * 2**20
"""Bytes of the header of a safetensors file: a hundred times what an adapter needs."""
FRAMES = "frames.npy"
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def limit_self(*, memory: int, seconds: float, written: int) -> None:
    """Bound this process before it has looked at the file; nothing where the system knows no such bounds."""
    try:
        import resource
    except ImportError:
        return
    whole_seconds = int(seconds) + 1
    bounds = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: whole_seconds,
        resource.RLIMIT_FSIZE: written,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in bounds.items():
        _, most = resource.getrlimit(kind)
        bound = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (bound, bound))
    os.nice(5)


def read_as_video(source: Path, target: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Write the frames [N, H, W, 3]; answer their rate and whether there are more of them."""
    import numpy as np

    from vggrpo.runtime.video_file import read_video

    video = read_video(source, max_frames=MOST_FRAMES, max_bytes=request["most"])
    np.save(target / FRAMES, video.frames)
    return {"fps": video.fps, "has_more": video.has_more}


def read_as_geometry(source: Path, target: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Write the same arrays, not compressed, under the same name; what they mean is checked by who reads them."""
    import numpy as np

    from vggrpo.runtime.array_archive import read_archive

    arrays = read_archive(source, names=request["names"], max_bytes=request["most"])
    np.savez(target / source.name, allow_pickle=False, **arrays)
    return {}


def read_as_image(source: Path, target: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Write the picture as PNG under the same name, upright, without anything but its colours."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    from vggrpo.runtime.errors import UserError

    most = request["most"]
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(source, formats=_IMAGE_FORMATS) as image:
            if image.width * image.height > most:
                raise UserError(
                    f"{source} has {image.width} × {image.height} pixels; give an image of at most "
                    f"{most / 1e6:.0f} million."
                )
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, struct.error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{source} cannot be read as an image: give a PNG, JPEG or WebP file.") from error
    upright.save(target / source.name, format="PNG", compress_level=1)
    return {}


def read_as_tensors(source: Path, target: Path, request: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - as others
    """Look at a safetensors file's header, which may promise no more than the file holds; numbers need no decoding."""
    from vggrpo.runtime.errors import UserError

    size = source.stat().st_size
    try:
        with source.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MOST_HEADER, size - 8):
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__" and not 0 <= entry["data_offsets"][0] <= entry["data_offsets"][1] <= size:
                raise ValueError(f"{name} lies outside the file")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise UserError(f"{source} is not a safetensors file or is damaged.") from error
    return {}


READERS = {
    "video": read_as_video,
    "geometry": read_as_geometry,
    "image": read_as_image,
    "latents": read_as_tensors,
    "adapter": read_as_tensors,
}


def main(request: dict[str, Any]) -> dict[str, Any]:
    """The answer: what the reader says, or ``error`` with one line for the visitor."""
    limit_self(memory=request["memory"], seconds=request["seconds"], written=request["written"])
    from vggrpo.runtime.errors import UserError

    try:
        return READERS[request["kind"]](Path(request["source"]), Path(request["target"]), request)
    except UserError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": f"{request['source']} needs more memory than there is for an uploaded file."}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))))
