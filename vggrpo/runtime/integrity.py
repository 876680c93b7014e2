"""Hashes of shipped weights: a truncated or altered file is named before anything is computed with it."""

import hashlib
import json
from pathlib import Path

from vggrpo.runtime.errors import UserError


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_files(root: Path, manifest: Path) -> None:
    """Compare every file under ``files`` of a MANIFEST with its hash; a UserError names the first that differs.

    Paths in the manifest are relative to ``root``.
    """
    if not manifest.is_file():
        raise UserError(f"{manifest} is missing: check out the repository again, its weights are listed there.")
    for name, entry in _listed_files(manifest).items():
        path = root / name
        if not path.is_file():
            raise UserError(f"The weight file {path} is missing: check out the repository again (git checkout {path}).")
        if path.stat().st_size != entry["bytes"] or sha256_of(path) != entry["sha256"]:
            raise UserError(
                f"The weight file {path} is truncated or altered: check it out again (git checkout {path})."
            )


def _listed_files(manifest: Path) -> dict[str, dict[str, object]]:
    """The manifest's ``files``; a UserError where it is not what this project wrote."""
    try:
        listed = json.loads(manifest.read_text())["files"]
        if all({"bytes", "sha256"} <= entry.keys() for entry in listed.values()):
            return listed
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{manifest} is truncated or altered: check it out again (git checkout {manifest}).") from error
    raise UserError(f"{manifest} lists files without size or hash: check it out again (git checkout {manifest}).")
