"""From a prompt to a video, its 4D scene and its rewards: what the CLI's ``generate`` and the page both call."""

from vggrpo.generation.request import GenerateRequest, Progress
from vggrpo.generation.studio import Studio

__all__ = ["GenerateRequest", "Progress", "Studio"]
