"""Files of public model repositories: fetched when they are first used, with progress, and only the files needed.

Everything that can go wrong (no network, no such repository, a gated one without a token, offline and not in the cache,
a full disk) is one clear line. Tokens are huggingface_hub's own business: HF_TOKEN or ``hf auth login``.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggrpo.runtime.errors import UserError

OnBytes = Callable[[int, int], None]
"""(bytes fetched, bytes in all as far as known)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubRepo:
    """What is fetched from one repository. ``gigabytes`` is about the size of the download."""

    repo: str
    patterns: tuple[str, ...]
    licence: str
    gigabytes: float
    revision: str = "main"

    @property
    def address(self) -> str:
        """Where a person reads about it."""
        return f"https://huggingface.co/{self.repo}"


def cached(source: HubRepo) -> Path | None:
    """The folder of a repository that is wholly in the local cache; asks nobody."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            source.repo, revision=source.revision, allow_patterns=list(source.patterns), local_files_only=True
        )
    except (LocalEntryNotFoundError, OSError):
        return None
    return Path(folder)


def fetch(source: HubRepo, *, offline: bool = False, on_bytes: OnBytes | None = None) -> Path:
    """The local folder of a repository's needed files; fetches what is missing.

    Raises:
        UserError: the files are neither in the cache nor to be had, with what to do about it.
    """
    if offline:
        folder = cached(source)
        if folder is None:
            raise UserError(
                f"{source.repo} is not, or not wholly, in the local cache and --offline fetches nothing: run once "
                "without --offline, or give --model-folder PATH."
            )
        return folder
    return Path(_download(source, _progress_class(on_bytes)))


def _download(source: HubRepo, progress: type[Any] | None) -> str:
    """``snapshot_download`` with its errors as one line each."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return snapshot_download(
            source.repo, revision=source.revision, allow_patterns=list(source.patterns), tqdm_class=progress
        )
    except GatedRepoError as error:
        raise UserError(
            f"{source.repo} is gated: accept its terms at {source.address}, then set HF_TOKEN or run hf auth login."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"There is no model repository {source.repo}, or it is private and needs a token: set HF_TOKEN or run "
            "hf auth login, or give --model-folder PATH."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{source.repo} has no revision {source.revision!r}: see {source.address}.") from error
    except LocalEntryNotFoundError as error:
        raise _unreachable(source) from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        advice = "set HF_TOKEN to a valid token" if status in {401, 403} else "try again later"
        raise UserError(
            f"The Hub answered {status} for {source.repo}: {advice}, or give --model-folder PATH."
        ) from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise _unreachable(source) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"The disk is full: {source.repo} takes about {source.gigabytes:g} GB in the cache; free space, or set "
                "HF_HOME to a folder with room."
            ) from error
        raise


def _unreachable(source: HubRepo) -> UserError:
    return UserError(
        f"The weights of {source.repo} (about {source.gigabytes:g} GB) are not in the local cache and the Hub cannot "
        "be reached: check the network, or give --model-folder PATH."
    )


def _progress_class(on_bytes: OnBytes | None) -> type[Any] | None:
    """A silent progress bar that hands bytes on; huggingface_hub makes one bar of received and one of written bytes."""
    if on_bytes is None:
        return None
    report = on_bytes
    from huggingface_hub.utils import tqdm

    class _Bytes(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._counts_bytes = options.get("unit") == "B"
            # A disabled bar would not count.
            super().__init__(*arguments, **options | {"disable": False, "file": _Nowhere(), "mininterval": 0.2})

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self._counts_bytes and self.total:
                report(int(self.n), int(self.total))
            return shown

    return _Bytes


class _Nowhere:
    """A stream that drops what the bars draw."""

    def write(self, _text: str) -> int:
        """Drop."""
        return 0

    def flush(self) -> None:
        """Nothing is kept."""
