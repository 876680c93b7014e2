"""``.npz`` archives: the same arrays give the same bytes, and reading cannot run code or fill the memory.

numpy's own reader trusts a member's header before it has seen the data. Here the header must agree with the size that
the archive states, and that size is bounded, before anything is allocated.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vggrpo.runtime.errors import UserError

MAX_ARCHIVE_BYTES = 4 * 2**30
"""Of all arrays together, uncompressed: 81 frames of 480 × 832 pixels take 1.1 GB."""

# Fast: geometry is noise in its last bits, and level 9 gains 2 % for ten times the time.
_COMPRESSION_LEVEL = 1
# The oldest time a zip archive can state. A real one would change the bytes from run to run.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def archive_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a compressed ``.npz``, which ``np.load`` reads."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION_LEVEL) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=_NO_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue(), compresslevel=_COMPRESSION_LEVEL)
    return buffer.getvalue()


def read_archive(path: Path, *, names: Mapping[str, str], max_bytes: int = MAX_ARCHIVE_BYTES) -> dict[str, np.ndarray]:
    """Read the named arrays; ``names`` maps each to its expected shape in words, for the messages.

    Nothing is read where they unpack to more than ``max_bytes`` together.

    Raises a UserError that names the file for anything that is not such an archive, and the array for one that is
    missing or damaged. Other members are ignored.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: give a geometry.npz file.")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            for name, shape in names.items():
                if f"{name}.npy" not in sizes:
                    raise UserError(f"{path} has no array '{name}': it must hold '{name}' of shape {shape}.")
            total = sum(sizes[f"{name}.npy"] for name in names)
            if total > max_bytes:
                raise UserError(
                    f"{path} unpacks to {total / 2**30:.1f} GiB; at most {max_bytes / 2**30:g} GiB are read."
                )
            return {name: _read_member(archive, name, path=path, shape=shape) for name, shape in names.items()}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path} is not an .npz archive or is damaged: write it with numpy.savez.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or 'input error'}).") from error


def _read_member(archive: zipfile.ZipFile, name: str, *, path: Path, shape: str) -> np.ndarray:
    """One array, whose header may not promise more than the member holds."""
    size = archive.getinfo(f"{name}.npy").file_size
    with archive.open(f"{name}.npy") as member:
        try:
            version = np.lib.format.read_magic(member)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            dimensions, is_fortran, dtype = read_header(member)
        except (ValueError, KeyError) as error:
            raise UserError(f"{path}: '{name}' is not a numpy array; expected shape {shape}.") from error
        if dtype.hasobject or dtype.kind not in "fb":
            raise UserError(f"{path}: '{name}' holds {dtype}; expected numbers of shape {shape}.")
        count = math.prod(dimensions)
        if count * dtype.itemsize != size - member.tell():
            raise UserError(f"{path}: '{name}' is cut short or damaged; expected shape {shape}.")
        data = member.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise UserError(f"{path}: '{name}' is cut short or damaged; expected shape {shape}.")
    return np.frombuffer(data, dtype=dtype).reshape(dimensions, order="F" if is_fortran else "C")
