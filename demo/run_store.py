"""Where runs live on disk: unguessable names, shipped examples by name, and a sweep by age and by size.

The page serves the runs root as static files, so the name of a run is its only lock: 128 random bits.
"""

import re
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from demo.environment import GIBIBYTE, HOUR

_RUN_ID = re.compile(r"[A-Za-z0-9_-]{20,40}")
_EXAMPLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SIDE_ID = re.compile(r"(.+)\.(base|tuned)")
"""A run that is one side of a pair is called after the pair."""

_DRAFT = re.compile(r"\..+")
"""A run that is being written; it gets its name when it is whole."""
_DRAFT_SECONDS = 6 * HOUR
"""Age at which a draft is nobody's any more: its process was killed."""

PAGE_FILES = "page"
"""Folder under the root with what the page derives from runs (recordings, strips, downloads), by run id."""


class UnknownRun(LookupError):
    """No run of that name: never made here, or swept away since."""


@dataclass(frozen=True, kw_only=True)
class RunStore:
    """Runs under ``root`` and shipped examples under ``examples``.

    Runs that nobody opened for ``max_age`` seconds go, and the longest unused beyond ``max_bytes`` of disk.
    """

    root: Path
    examples: Path
    max_age: float = 24 * HOUR
    max_bytes: int = 20 * GIBIBYTE

    def new_run(self) -> str:
        """A fresh unguessable name."""
        return secrets.token_urlsafe(16)

    def target(self, run_id: str) -> Path:
        """Where a new run is to be written."""
        return self.root / run_id

    def find(self, run_id: str) -> Path:
        """The folder of a run or an example; marks a run as recently used. Raises ``UnknownRun``.

        Names are matched against a pattern before they touch the file system, so no name leads out of the roots.
        """
        if side := _SIDE_ID.fullmatch(run_id):
            return self.find_pair(side[1]) / side[2]
        return self._find(run_id, holding="rewards.json", shipped=self.examples)

    def find_pair(self, pair_id: str) -> Path:
        """The folder of a pair, made here or shipped, with its two runs. Raises ``UnknownRun``."""
        return self._find(pair_id, holding="pair.json", shipped=self.pairs)

    def find_comparison(self, comparison_id: str) -> Path:
        """The folder of a comparison over many prompts. Raises ``UnknownRun``."""
        return self._find(comparison_id, holding="comparison.json", shipped=self.pairs)

    @property
    def pairs(self) -> Path:
        """Where shipped pairs lie."""
        return self.examples / "pairs"

    def pair_ids(self) -> tuple[str, ...]:
        """Names of the shipped pairs, in order."""
        return tuple(sorted(path.parent.name for path in self.pairs.glob("*/pair.json")))

    def shipped_ids(self) -> tuple[str, ...]:
        """Every run that ships with the page: the examples, and both sides of the pairs."""
        sides = (f"{pair_id}.{side}" for pair_id in self.pair_ids() for side in ("base", "tuned"))
        return (*self.example_ids(), *sides)

    def page_files(self, run_id: str) -> Path:
        """The folder for what the page derives from a run, made if needed."""
        folder = self.root / PAGE_FILES / run_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def example_ids(self) -> tuple[str, ...]:
        """Names of the shipped examples, in order."""
        if not self.examples.is_dir():
            return ()
        return tuple(sorted(path.parent.name for path in self.examples.glob("*/rewards.json")))

    def is_example(self, run_id: str) -> bool:
        """Whether a name is one of the shipped examples."""
        return run_id.partition(".")[0] in {*self.example_ids(), *self.pair_ids()}

    def sweep(self) -> None:
        """Delete old runs, those beyond the cap, drafts of jobs that were killed, and page files whose run is gone."""
        if not self.root.is_dir():
            return
        runs = [path for path in self.root.iterdir() if path.is_dir() and _RUN_ID.fullmatch(path.name)]
        pages = self.root / PAGE_FILES
        # What the page derives from a run and from the sides of a pair goes with it.
        stored = [Stored(folders=(path, *pages.glob(f"{path.name}*"))) for path in runs]
        sweep_stored(stored, max_age=self.max_age, max_bytes=self.max_bytes)
        for path in self.root.glob(".*"):
            if path.is_dir() and _DRAFT.fullmatch(path.name) and age_of(path) > _DRAFT_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        kept = {*self.example_ids(), *self.pair_ids(), *(path.name for path in runs if path.exists())}
        for path in (self.root / PAGE_FILES).glob("*"):
            if path.name.partition(".")[0] not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def _find(self, name: str, *, holding: str, shipped: Path) -> Path:
        """A folder by name: shipped with the page or made here."""
        if _EXAMPLE_ID.fullmatch(name) and (shipped / name / holding).is_file():
            return shipped / name
        if _RUN_ID.fullmatch(name) and (self.root / name / holding).is_file():
            (self.root / name).touch()
            return self.root / name
        raise UnknownRun("this run is not here any more; generate it again with the same prompt and seed")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Folders that belong together; the first one tells when they were last used."""

    folders: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(size_of(folder) for folder in self.folders)

    def delete(self) -> None:
        """All of it; what cannot be deleted is tried again at the next sweep."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)


def sweep_stored(stored: list[Stored], *, max_age: float, max_bytes: int) -> None:
    """Delete what is too old, and of the rest the longest unused until the others fit."""
    total = 0
    for item in sorted(stored, key=lambda item: age_of(item.folders[0])):
        total += item.size
        if total > max_bytes or age_of(item.folders[0]) > max_age:
            item.delete()


def age_of(path: Path) -> float:
    """Seconds since a folder was last used; a folder that has just gone is as old as can be."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder, links not followed; one that goes away meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size
    return total
