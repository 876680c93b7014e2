"""How the pixels of the video VAE and those of the geometry model fit together.

Both supported kinds of VAE give one geometry token for every 16 × 16 pixels: an 8× VAE behind a connector of stride 2,
a 16× VAE behind stride 1. A geometry model whose patches are not 16 pixels wide therefore sees another image size,

    geometry pixels = VAE pixels · patch / 16,      7/8 for patches of 14 (VAE pixels are 8/7 of geometry pixels)

so that both have the same token grid: 480 × 832 pixels of video are 420 × 728 pixels for Any4D and VGGT.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vggrpo.runtime.errors import UserError

PIXELS_PER_TOKEN = 16
"""Side of the square of VAE pixels behind one token of geometry."""


def connector_stride(vae_compression: int) -> int:
    """Stride of the connector behind a VAE that makes one latent cell of ``vae_compression``² pixels.

    Raises:
        UserError: no stride gives 16 pixels a token.
    """
    if vae_compression < 1 or PIXELS_PER_TOKEN % vae_compression:
        raise UserError(
            f"a video VAE of {vae_compression}x compression cannot be stitched: "
            f"it must divide the {PIXELS_PER_TOKEN} pixels of a geometry token (8x and 16x do)"
        )
    return PIXELS_PER_TOKEN // vae_compression


def geometry_size(height: int, width: int, *, patch_size: int) -> tuple[int, int]:
    """Height and width of the images that a geometry model reads from a video of ``height`` × ``width`` pixels.

    Raises:
        UserError: the video has no whole number of tokens.
    """
    if height % PIXELS_PER_TOKEN or width % PIXELS_PER_TOKEN:
        raise UserError(
            f"a video of {height} x {width} pixels has no whole number of geometry tokens: "
            f"choose multiples of {PIXELS_PER_TOKEN}"
        )
    return height // PIXELS_PER_TOKEN * patch_size, width // PIXELS_PER_TOKEN * patch_size


def resize_for_geometry(images: Float[Tensor, "B N 3 H W"], *, patch_size: int) -> Float[Tensor, "B N 3 H2 W2"]:
    """The images in the size that a geometry model of ``patch_size`` reads; untouched for patches of 16 pixels.

    Raises:
        UserError: the video has no whole number of tokens.
    """
    size = geometry_size(images.shape[-2], images.shape[-1], patch_size=patch_size)
    if size == tuple(images.shape[-2:]):
        return images
    frames = images.flatten(0, 1)
    resized = F.interpolate(frames, size=size, mode="bilinear", align_corners=False, antialias=True)
    return resized.unflatten(0, images.shape[:2])
