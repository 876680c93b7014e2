"""Where runs live on disk: unguessable names, shipped examples by name, and a sweep that keeps the disk small.

The page serves the runs root as static files, so the name of a run is its only lock: 128 random bits.
"""

import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

_RUN_ID = re.compile(r"[A-Za-z0-9_-]{20,40}")
_EXAMPLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SIDE_ID = re.compile(r"(.+)\.(base|tuned)")
"""A run that is one side of a pair is called after the pair."""

PAGE_FILES = "page"
"""Folder under the root with what the page derives from runs (recordings, strips, downloads), by run id."""


class UnknownRun(LookupError):
    """No run of that name: never made here, or swept away since."""


@dataclass(frozen=True, kw_only=True)
class RunStore:
    """Runs under ``root`` and shipped examples under ``examples``.

    Runs older than ``max_age`` seconds go, and the least recently opened ones beyond ``max_runs``.
    """

    root: Path
    examples: Path
    max_runs: int = 60
    max_age: float = 24 * 3600.0

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
        """Delete old runs, those beyond the cap, and page files whose run is gone."""
        if not self.root.is_dir():
            return
        runs = [path for path in self.root.iterdir() if path.is_dir() and _RUN_ID.fullmatch(path.name)]
        runs.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        oldest = time.time() - self.max_age
        for position, path in enumerate(runs):
            if position >= self.max_runs or path.stat().st_mtime < oldest:
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
