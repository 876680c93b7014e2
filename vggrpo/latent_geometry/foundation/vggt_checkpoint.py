"""Names of the tensors in VGGT checkpoints: ours are the official ones, without the track head."""

from vggrpo.latent_geometry.foundation.model_folder import Architecture
from vggrpo.latent_geometry.foundation.vggt import VGGT
from vggrpo.latent_geometry.foundation.vggt_config import VGGTConfig
from vggrpo.latent_geometry.foundation.weight_files import WeightLayout

# 2-D point tracks: no reward reads them, and 66 million parameters need not be held.
DROPPED_SUBMODULES = ("track_head",)


def stored_key(key: str) -> str | None:
    """The name itself, or None for a dropped submodule."""
    return None if key.split(".", maxsplit=1)[0] in DROPPED_SUBMODULES else key


VGGT_1B = Architecture(
    name="vggt",
    config=VGGTConfig(),
    build=VGGT,
    layout=WeightLayout(title="VGGT", stored_name=stored_key),
    official_files=("model.safetensors", "model.pt", "vggt_1B_commercial.pt"),
)
