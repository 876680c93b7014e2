"""``evaluate agreement``: the latent reward against the reward of decoded video, inside groups."""

import time
from typing import TYPE_CHECKING

from vggrpo.cli.evaluate_commands import EvaluateAgreement
from vggrpo.cli.evaluating import evaluation_table
from vggrpo.cli.model_choice import check_choice, open_studio
from vggrpo.cli.terminal import Outcome, PhaseProgress
from vggrpo.presets import Preset
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import require_writable

if TYPE_CHECKING:
    from vggrpo.evaluation.reward_agreement import Space
    from vggrpo.types import Latents, SceneGeometry

FILE = "agreement.json"
MOST_PROMPTS, MOST_MEMBERS = 4096, 256


def run(command: EvaluateAgreement) -> Outcome:
    """Draw groups as training draws them, without its noise, and judge them twice."""
    preset = _check(command)
    prompts = _prompts(command, preset)
    with PhaseProgress() as progress:
        progress.phase("load")
        from vggrpo.evaluation.reward_agreement import measure_agreement
        from vggrpo.generation import GenerateRequest
        from vggrpo.generation.batch import denoise_batch
        from vggrpo.grpo.defaults import training_defaults

        studio = open_studio(command, progress)
        trained = training_defaults(preset.name)
        began = time.monotonic()

        def draw(prompt: str) -> "Latents":
            requests = [
                GenerateRequest(
                    prompt=prompt,
                    preset=preset.name,
                    seed=command.seed + member,
                    steps=trained.steps if command.steps is None else command.steps,
                    guidance=trained.guidance if command.guidance is None else command.guidance,
                    adapter=command.adapter,
                )
                for member in range(command.group_size)
            ]
            return denoise_batch(studio, requests)

        def read(latents: "Latents", space: "Space") -> "SceneGeometry":
            return studio.read_geometry(latents, reward_space=space)

        agreement = measure_agreement(
            prompts, draw=draw, read=read, on_prompt=progress.counter("prompts", total=len(prompts))
        )
    rows = agreement.rows()
    content: dict[str, object] = {
        "prompts": list(prompts),
        "group_size": command.group_size,
        "seed": command.seed,
        "preset": preset.name,
        "adapter": None if command.adapter is None else str(command.adapter),
        "seconds": round(time.monotonic() - began, 1),
        "rows": {row.key: row.to_json() for row in rows},
    }
    if command.out is not None:
        from vggrpo.runtime.run_folder import write_json

        command.out.mkdir(parents=True, exist_ok=True)
        write_json(command.out / FILE, content)
    title = f"{preset.name}: {len(prompts)} prompts × {command.group_size} videos, each judged twice"
    return Outcome(result=content, shown=evaluation_table(rows, title=title))


def _prompts(command: EvaluateAgreement, preset: Preset) -> tuple[str, ...]:
    """The file's prompts, or held-out captions."""
    from vggrpo.generation.comparison import held_out_prompts
    from vggrpo.grpo.prompts import read_prompts

    if command.prompts is not None:
        return read_prompts(command.prompts)[: command.count]
    if not preset.closed_vocabulary:
        raise UserError(f"{preset.name} has no prompts of its own: give --prompts FILE, one prompt a line.")
    return tuple(job.prompt for job in held_out_prompts(command.count, seed=command.seed))


def _check(command: EvaluateAgreement) -> Preset:
    """The preset; raises a UserError for the first thing that is wrong."""
    preset = check_choice(command)
    if not 1 <= command.count <= MOST_PROMPTS:
        raise UserError(f"{command.count} prompts were asked for; give 1 to {MOST_PROMPTS}.")
    if not 2 <= command.group_size <= MOST_MEMBERS:
        raise UserError(f"Groups of {command.group_size} were asked for; give 2 to {MOST_MEMBERS} videos to compare.")
    for path in (command.adapter, command.prompts):
        if path is not None and not path.exists():
            raise UserError(f"{path} does not exist.")
    if command.out is not None:
        require_writable(command.out)
    return preset
