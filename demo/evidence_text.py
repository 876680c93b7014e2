"""Prose of the evidence in About: what each figure asks, how to read it, and which command makes its numbers."""

from dataclasses import dataclass

EVIDENCE_TITLE = "Does it work?"
EVIDENCE_INTRO = (
    "Measured by commands that anyone can rerun, on prompts and worlds that no training drew. Each figure is drawn "
    "from a file of raw numbers that names its command, machine, versions, seeds and weights."
)
NOT_RECORDED = "Not recorded yet. This command makes the numbers:"
UNREADABLE = "The recorded numbers cannot be read. This command makes them again:"


@dataclass(frozen=True, kw_only=True)
class FigureText:
    """A figure's name in ``assets/results``, its words, and the command that makes its numbers."""

    name: str
    title: str
    lead: str
    command: str


CONTEST = FigureText(
    name="contest",
    title="Every contestant against the base model",
    lead="All that are trained learnt from the same number of videos (guidance and blur train nothing), and all are "
    "asked for the same prompts from the same noise. A dot is the change against the base model, the bar its 95 % "
    "interval (paired, resampled by prompt); a filled dot is clear of zero. On the right, the share of prompts that "
    "the contestant wins.",
    command="python -m vggrpo evaluate --record",
)
TRANSITIONS = FigureText(
    name="transitions",
    title="Which noise to explore with",
    lead="The same training with each way to put noise into a denoising step, at equal budget.",
    command="python -m vggrpo evaluate --lineup configs/transitions --champion flow_sde --record --name transitions",
)
ROBUSTNESS = FigureText(
    name="robustness",
    title="Whose cameras survive noise on the latents?",
    lead="The paper's argument for a latent judge. Noise of growing size is added to the latents of held-out world "
    "clips; the camera is then read by Φ<sub>g</sub> from the latents, and by Φ from the decoded video.",
    command="python -m vggrpo evaluate robustness --record",
)
COST = FigureText(
    name="cost",
    title="What a reward costs, from latents and from video",
    lead="The same latents judged both ways: Φ<sub>g</sub> reads them as they are; for Φ they are decoded first.",
    command="python -m vggrpo bench reward --record",
)

FAMILIES = {
    "independent": "Judges that training never saw",
    "guard": "Guards: what a score can be gained by giving up",
    "own": "What training optimised, beside them",
}
"""Measures of the contest by kind, in order."""
SEEN = "†"
SEEN_NOTE = "Its training looked at this measure: no independent judge of it."
BETTER = {"lower": "lower is better", "higher": "higher is better", "guard": "guard"}
CLIPS = {"all": "All prompts", "static": "Still scenes", "dynamic": "Moving objects"}

POSE_MEASURES = {"rotation_degrees": "Rotation", "direction_degrees": "Direction of travel"}
POSE_REFERENCES = {"truth": "against the exact cameras", "clean": "against its own reading without noise"}
READERS = {"latent": "Φ<sub>g</sub> on latents", "decoded": "Φ on decoded video"}
YARDSTICKS = {"rotation_degrees": "believed to stand still", "direction_degrees": "chance"}

ROUTES = {"latent": "From latents", "rgb": "From video"}
PHASES = {"decode": "decode", "geometry": "read geometry", "judge": "compute rewards"}
COST_PAPER = "The paper reports 24.5 % less time and 10.7 % less memory for its models."
