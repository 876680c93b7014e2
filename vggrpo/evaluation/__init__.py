"""What a tuned model gained over its base: paired differences at the same prompts and seeds."""

from vggrpo.evaluation.paired import PairedDifference, paired_difference, paired_differences

__all__ = ["PairedDifference", "paired_difference", "paired_differences"]
