"""The toy training in a process of its own: ``python -m tests.grpo.toy_process OUT ITERATIONS``."""

import sys
from dataclasses import replace
from pathlib import Path

from tests.grpo.toy import CONFIG, PROMPTS, make_models
from vggrpo.grpo.trainer import train


def main() -> None:
    out, iterations = sys.argv[1:]
    train(replace(CONFIG, iterations=int(iterations)), make_models(), prompts=PROMPTS, out=Path(out))


if __name__ == "__main__":
    main()
