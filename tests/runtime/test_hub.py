"""Fetching weights: huggingface_hub's real client against a hub on this machine, and against none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.fake_hub import serve

ROOT = Path(__file__).resolve().parents[2]
REPO = "we/model"
FILES = {
    "model_index.json": b"{}",
    "parts/a.safetensors": b"a" * 50_000,
    "parts/b.safetensors": b"b" * 70_000,
    "parts/a.bin": b"never fetched",
    "picture.png": b"never fetched",
}
WANTED = ["model_index.json", "parts/a.safetensors", "parts/b.safetensors"]


def ask(
    endpoint: str, home: Path, *asked: dict[str, object], environment: dict[str, str] | None = None
) -> list[dict[str, object]]:
    """All in one process: the client takes a second to import."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    given = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_XET": "1"}
    # As the command line has it: libraries draw no bars, bytes are counted all the same.
    given["TQDM_DISABLE"] = "1"
    result = subprocess.run(
        [sys.executable, "-m", "tests.runtime.fake_hub", json.dumps(asked)],
        cwd=ROOT,
        env=clean | given | {"NO_PROXY": "127.0.0.1"} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    home = tmp_path_factory.mktemp("home")
    with serve(FILES, repo=REPO) as endpoint:
        asked = {
            "not yet": {"repo": REPO, "offline": True},
            "fetched": {"repo": REPO},
            "again offline": {"repo": REPO, "offline": True},
            "no revision": {"repo": REPO, "revision": "nightly"},
            "missing": {"repo": "they/nothing"},
            "private": {"repo": "they/private"},
            "gated": {"repo": "they/gated"},
            "broken": {"repo": "they/broken"},
        }
        return dict(zip(asked, ask(endpoint, home, *asked.values()), strict=True))


def test_only_the_needed_files_are_fetched_and_bytes_are_counted(answers: dict[str, dict[str, object]]) -> None:
    assert answers["fetched"]["files"] == WANTED
    total = sum(len(FILES[name]) for name in WANTED)
    assert answers["fetched"]["bytes"] == [total, total]
    assert answers["fetched"]["cached"]


def test_offline_reads_the_cache_and_only_the_cache(answers: dict[str, dict[str, object]]) -> None:
    assert answers["again offline"]["files"] == WANTED
    assert not answers["not yet"]["cached"]
    assert "--offline fetches nothing" in answers["not yet"]["error"]
    assert "--model-folder" in answers["not yet"]["error"]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no revision", ["we/model", "revision 'nightly'"]),
        ("missing", ["no model repository they/nothing", "HF_TOKEN"]),
        ("private", ["no model repository they/private", "HF_TOKEN"]),
        ("gated", ["they/gated is gated", "accept its terms", "HF_TOKEN"]),
        ("broken", ["they/broken", "--model-folder"]),
    ],
)
def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(
    answers: dict[str, dict[str, object]], case: str, words: list[str]
) -> None:
    line = answers[case]["error"]
    assert isinstance(line, str)
    assert "\n" not in line
    for word in words:
        assert word in line, line
    assert not answers[case]["cached"]


def test_no_network_is_one_line(tmp_path: Path) -> None:
    """Nobody listens on port 9; and the client's own offline switch."""
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        (answer,) = ask("http://127.0.0.1:9", tmp_path, {"repo": REPO}, environment=environment)
        assert "we/model (about 1.5 GB) are not in the local cache and the Hub cannot be reached" in answer["error"]
