"""The folder of a comparison: everything that was drawn and found, so that a run that is cut off goes on.

question.json                        what is asked; the folder answers one question
contestants/NAME/about.json          what its videos are made with
contestants/NAME/latents/TAKE        .safetensors, one video each
contestants/NAME/findings/TAKE       .json, what the judges say of it
contestants/NAME/features/TAKE       .npy, [N, C] for the Fréchet distance

Every file is there whole or not at all. What is not a finished file of its kind is made again.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vggrpo.evaluation.contest.question import Take
from vggrpo.evaluation.judges import Finding
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_bytes, require_writable
from vggrpo.runtime.latents_file import read_latents, write_latents
from vggrpo.runtime.run_folder import read_json, write_json
from vggrpo.types import Latents

QUESTION = "question.json"
ABOUT = "about.json"
CONTESTANTS = "contestants"

Features = Float[np.ndarray, "_ C"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ContestantFolder:
    """What is kept of one contestant."""

    path: Path
    preset: str

    def has_latents(self, take: Take) -> bool:
        """Whether the video is drawn."""
        return self._latents(take).is_file()

    def latents(self, take: Take) -> Latents:
        """A drawn video."""
        return read_latents(self._latents(take)).latents

    def write_latents(self, take: Take, latents: Latents) -> None:
        """Keep a drawn video, [1, C, T, h, w]."""
        self._latents(take).parent.mkdir(parents=True, exist_ok=True)
        write_latents(self._latents(take), latents, preset=self.preset)

    def has_findings(self, take: Take) -> bool:
        """Whether the video is judged."""
        return self._findings(take).is_file() and self._features(take).is_file()

    def findings(self, take: Take) -> dict[str, Finding]:
        """What the judges said, by measure. Raises a UserError for a file that is not ours."""
        file = self._findings(take)
        entries = read_json(file).get("findings")
        try:
            if isinstance(entries, dict):
                return {name: Finding.from_json(entry) for name, entry in entries.items()}
        except (ValueError, AttributeError) as error:
            raise UserError(f"{file} is damaged ({error}): remove it, and it is made again.") from error
        raise UserError(f"{file} holds no findings: remove it, and it is made again.")

    def features(self, take: Take) -> Features:
        """Features of every frame. Raises a UserError for a damaged file."""
        try:
            return np.load(self._features(take), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{self._features(take)} is damaged: remove it, and it is made again.") from error

    def write_features(self, take: Take, features: Features) -> None:
        """Keep a video's features."""
        self._features(take).parent.mkdir(parents=True, exist_ok=True)
        data = io.BytesIO()
        np.save(data, features.astype(np.float32), allow_pickle=False)
        atomic_write_bytes(self._features(take), data.getvalue())

    def write_findings(self, take: Take, findings: Mapping[str, Finding]) -> None:
        """Keep what the judges said."""
        self._findings(take).parent.mkdir(parents=True, exist_ok=True)
        write_json(self._findings(take), {"findings": {name: found.to_json() for name, found in findings.items()}})

    def _latents(self, take: Take) -> Path:
        return self.path / "latents" / f"{take.name}.safetensors"

    def _findings(self, take: Take) -> Path:
        return self.path / "findings" / f"{take.name}.json"

    def _features(self, take: Take) -> Path:
        return self.path / "features" / f"{take.name}.npy"


@dataclass(frozen=True, kw_only=True, slots=True)
class ContestFolder:
    """The folder of one question."""

    path: Path
    preset: str

    def open(self, question: Mapping[str, object]) -> None:
        """Begin, or go on with the same question.

        Raises:
            UserError: the folder answers another question (the first thing that differs is named), or holds other
                files.
        """
        require_writable(self.path)
        file = self.path / QUESTION
        asked = _plain(question)
        if file.is_file():
            self._require_same(read_json(file), asked)
            return
        if self.path.is_dir() and any(entry.name != "lock" for entry in self.path.iterdir()):
            raise UserError(f"{self.path} holds other files; choose an empty or new output folder.")
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(file, asked)

    def contestant(self, name: str, *, about: Mapping[str, object]) -> ContestantFolder:
        """A contestant's folder. Raises a UserError if it holds another one's videos under the same name."""
        folder = self.path / CONTESTANTS / name
        file, described = folder / ABOUT, _plain(about)
        if file.is_file() and read_json(file) != described:
            raise UserError(
                f"{folder} holds videos of another {name}: remove that folder to draw them anew, take another name, or "
                "choose another output folder."
            )
        if not file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(file, described)
        return ContestantFolder(path=folder, preset=self.preset)

    def _require_same(self, kept: Mapping[str, object], asked: Mapping[str, object]) -> None:
        for name in {**kept, **asked}:
            if kept.get(name) != asked.get(name):
                raise UserError(
                    f"{self.path} answers another question: its {name.replace('_', ' ')} differ"
                    f"{'' if name.endswith('s') else 's'}; give the same options to go on, or another --out."
                )


def _plain(content: Mapping[str, object]) -> dict[str, Any]:
    """As JSON gives it back: what is kept can then be compared with what is asked."""
    return json.loads(json.dumps(content, ensure_ascii=False, allow_nan=False))
