"""The toy training in a process of its own: ``python -m tests.grpo.toy_process OUT ITERATIONS [WEIGHTS]``.

With WEIGHTS, the adapter as it is when the last iteration begins is written to that file, and how many videos were
judged at once into its metadata.
"""

import sys
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from tests.grpo.toy import CONFIG, PROMPTS, Brightness, make_models
from vggrpo.grpo.trainer import TrainProgress, train
from vggrpo.policy.adapter import adapter_parameters


def main() -> None:
    out, iterations, *rest = sys.argv[1:]
    config = replace(CONFIG, iterations=int(iterations))
    rewards = Brightness()
    models = make_models(rewards)

    def remember(progress: TrainProgress) -> None:
        if rest and progress.iteration == config.iterations and progress.phase == "rollout":
            weights = {name: p.detach().clone() for name, p in adapter_parameters(models.transformer).items()}
            save_file(weights, rest[0], metadata={"judged": str(rewards.judged)})

    train(config, models, prompts=PROMPTS, out=Path(out), on_progress=remember)


if __name__ == "__main__":
    main()
