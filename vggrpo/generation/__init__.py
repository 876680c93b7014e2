"""From a prompt to a video, its 4D scene and its rewards: what the CLI's ``generate`` and the page both call."""

from vggrpo.generation.request import GenerateRequest, Progress
from vggrpo.generation.studio import Studio
from vggrpo.policy.guidance import RewardGuidance

__all__ = ["GenerateRequest", "Progress", "RewardGuidance", "Studio"]
