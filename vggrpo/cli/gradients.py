"""``evaluate gradients``: whether the rewards of different videos ask for the same change."""

import time

from vggrpo.cli.evaluate_commands import EvaluateGradients
from vggrpo.cli.evaluating import evaluation_table
from vggrpo.cli.model_choice import check_choice, open_studio
from vggrpo.cli.terminal import Outcome, PhaseProgress
from vggrpo.presets import Preset
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import require_writable

FILE = "gradients.json"
MOST_VIDEOS = 1024


def run(command: EvaluateGradients) -> Outcome:
    """Exact gradients of videos that are drawn as training draws them, without its noise."""
    preset = _check(command)
    with PhaseProgress() as progress:
        progress.phase("load")
        from vggrpo.evaluation.reward_directions import Gradients, measure_reward_directions, reward_gradients
        from vggrpo.generation.comparison import held_out_prompts
        from vggrpo.grpo.defaults import training_defaults
        from vggrpo.policy.adapter import add_adapter, load_adapter
        from vggrpo.policy.sampling import Conditions, draw_noise

        models = open_studio(command, progress).models
        trained = training_defaults(preset.name)
        if command.adapter is None:
            add_adapter(models.transformer, trained.lora_settings, seed=trained.seed)
        else:
            load_adapter(models.transformer, command.adapter, trainable=True)
        models.latent_geometry.requires_grad_(requires_grad=False)
        jobs = held_out_prompts(command.count, seed=command.seed)
        began = time.monotonic()

        def gradients_of(index: int) -> Gradients:
            negative = models.text.embed(preset.negative_prompt)
            return reward_gradients(
                models.transformer,
                models.latent_geometry,
                noise=draw_noise((1, *preset.latent_shape), seed=jobs[index].seed, device=models.device),
                conditions=Conditions(
                    text=models.text.embed(jobs[index].prompt), negative=negative, guidance=trained.guidance
                ),
                steps=trained.steps,
                shift=trained.flow_shift,
            )

        directions = measure_reward_directions(
            command.count, gradients_of=gradients_of, on_video=progress.counter("videos", total=command.count)
        )
    rows = directions.rows()
    content: dict[str, object] = {
        "videos": command.count,
        "first_seed": command.seed,
        "preset": preset.name,
        "adapter": None if command.adapter is None else str(command.adapter),
        "steps": trained.steps,
        "guidance": trained.guidance,
        "seconds": round(time.monotonic() - began, 1),
        "rows": {row.key: row.to_json() for row in rows},
    }
    if command.out is not None:
        from vggrpo.runtime.run_folder import write_json

        command.out.mkdir(parents=True, exist_ok=True)
        write_json(command.out / FILE, content)
    title = f"{preset.name}: do the rewards of {command.count} held-out videos ask for the same change of the adapter?"
    return Outcome(result=content, shown=evaluation_table(rows, title=title))


def _check(command: EvaluateGradients) -> Preset:
    """The preset; raises a UserError for the first thing that is wrong."""
    preset = check_choice(command)
    if not preset.closed_vocabulary:
        raise UserError(
            f"evaluate gradients goes back through the whole sampler, for which {preset.name} is too large: it "
            "measures the embedded model."
        )
    if not 2 <= command.count <= MOST_VIDEOS:
        raise UserError(f"{command.count} videos were asked for; give 2 to {MOST_VIDEOS}.")
    if command.adapter is not None and not command.adapter.exists():
        raise UserError(f"{command.adapter} does not exist.")
    if command.out is not None:
        require_writable(command.out)
    return preset
