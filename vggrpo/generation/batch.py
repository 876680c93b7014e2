"""Many requests of one kind denoised together: what evaluation needs, and an interactive page does not."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from vggrpo.generation.request import GenerateRequest
from vggrpo.generation.studio import Studio
from vggrpo.policy.sampling import Conditions, draw_noise
from vggrpo.types import Latents

OnStep = Callable[[int, int], None]


def denoise_batch(studio: Studio, requests: Sequence[GenerateRequest], *, on_step: OnStep | None = None) -> Latents:
    """z_0 of requests that differ in prompt and seed only, [B, C, T, h, w] in their order.

    Every video starts from the noise of its own seed, so it is the one that ``Studio.denoise`` makes, up to the
    rounding of larger matrix products. Raises a UserError as ``Studio.denoise`` does, and a ValueError for requests
    of different kinds. ``on_step(done, steps)`` may raise to stop.
    """
    first = requests[0]
    for request in requests:
        if replace(request, prompt=first.prompt, seed=first.seed) != first:
            raise ValueError("requests that are denoised together may differ in prompt and seed only")
    studio.prepare_text([request.prompt for request in requests])
    conditions = _join([studio.conditions(request) for request in requests])
    device = studio.models.device
    noise = torch.cat([draw_noise((1, *studio.latent_shape), seed=r.seed, device=device) for r in requests])
    return studio.denoise_noise(noise, conditions, request=first, on_step=on_step).latents


def _join(conditions: Sequence[Conditions]) -> Conditions:
    """One batch of conditions that share their negative prompt and guidance."""
    first_frames = [one.first_frame for one in conditions if one.first_frame is not None]
    return Conditions(
        text=torch.cat([one.text for one in conditions]),
        negative=conditions[0].negative,
        guidance=conditions[0].guidance,
        first_frame=torch.cat(first_frames) if first_frames else None,
    )
