"""What a recorded result says of the weights in memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from vggrpo.generation.models import Models

DIGITS = 12

Part = Literal["vae", "transformer", "geometry", "latent_geometry"]


def loaded_weights(models: "Models", parts: Sequence[Part]) -> dict[str, str]:
    """The first digits of each part's ``weights_sketch``: equal for equal weights, wherever they were loaded from.

    A part that has not been used yet is loaded for it.
    """
    from vggrpo.runtime.weights_sketch import weights_sketch

    networks: dict[Part, Any] = {}
    for part in parts:
        networks[part] = models.vae.model if part == "vae" else getattr(models, part)
    return {part: weights_sketch(network)[:DIGITS] for part, network in networks.items()}
