"""What ``evaluate`` takes, subject by subject. The texts here are what ``--help`` shows; nothing heavy is imported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import subcommand

from vggrpo.cli.options import ModelChoice

SUBJECTS = ("adapters", "agreement", "assets", "gradients", "jitter", "robustness")
"""What `evaluate` can measure; the first one where none is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateAdapters(ModelChoice):
    """Compare tuned adapters with the base model by judges that no training saw: paired differences with bootstrap
    intervals, win rates and guards, on held-out prompts. Cut off, the same command goes on.
    (Other subjects, each with its own --help: evaluate agreement, assets, gradients, jitter,
    robustness.)"""

    contestants: tuple[str, ...] = ()
    """NAME=PATH for an adapter (a run of `train`, its folder adapter, or a .safetensors file), the word guidance for
    the base model under reward guidance, or the word blurred for its own videos made softer. Not given: those of
    --lineup that are trained, guidance and blurred. The base model always takes part."""
    lineup: Path | None = None
    """A folder of training settings, one file a contestant: FOLDER/NAME.yaml is trained to runs/FOLDER/NAME.
    configs/contestants if not given; configs/transitions holds the ablation of transitions."""
    champion: str = "vggrpo"
    """The contestant that is held against the goals and against each other one."""
    count: int | None = None
    """Held-out prompts, half of them with moving objects: 64, or 4 with --quick."""
    repeats: int = 2
    """Videos of each prompt, from different noise; the same noise for every contestant."""
    seed: int = 0
    """Other held-out prompts and other noise."""
    static_prompts: Path | None = None
    """A text file, one prompt a line, of scenes that stand still, instead of held-out worlds."""
    dynamic_prompts: Path | None = None
    """The same for scenes in which something moves. Released models need at least one of both files."""
    true_videos: Path | None = None
    """A folder of real videos for the Fréchet distance; tiny takes its procedural world."""
    steps: int | None = None
    """Denoising steps; the preset's if not given."""
    guidance: float | None = None
    """Guidance scale, 1 is off; the preset's if not given."""
    reward_guidance: float = 30.0
    """Scale of the contestant guidance."""
    reward_guidance_every: int = 2
    """It guides every n-th denoising step."""
    blur: float = 0.4
    """Standard deviation in pixels of the blur of the contestant blurred: what softer frames alone gain."""
    judge_geometry: str | None = None
    """The independent geometry model that judges: vggt for any4d, and the other way round; tiny has one of its own."""
    judge_weights: Path | None = None
    """Its weights, a folder or one file, instead of fetching them."""
    judge: Path | None = None
    """The judge of objects: the subfolder model that `pretrain judge` wrote; the shipped one if not given."""
    batch: int = 4
    """Videos denoised together."""
    quick: bool = False
    """The whole report, small: a few prompts, within ten minutes on two cores. Its intervals are wide."""
    out: Path | None = None
    """Folder for latents, findings and the report, to go on from; runs/contest, or runs/contest-quick."""
    record: bool = False
    """Also write the numbers to assets/results."""
    name: str = "contest"
    """Their name there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateAssets(ModelChoice):
    """Measure the embedded weights, autoencoder, video model, Φ and Φ_g, against the targets they were made for."""

    clips: int = 64
    """True and generated clips to measure on."""
    seed: int = 0
    """The first held-out world; its caption is a prompt."""
    adapter: Path | None = None
    """A LoRA on the video model: a .safetensors file or a folder that `train` wrote."""
    judge: Path | None = None
    """The judge of objects: the subfolder model that `pretrain judge` wrote; the shipped one if not given."""
    batch: int = 4
    """Videos denoised together."""
    out: Path | None = None
    """Folder for evaluation.json and clips.png, a sheet of generated clips beside true ones."""
    record: bool = False
    """Note the numbers in the MANIFEST of the shipped weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateJitter(ModelChoice):
    """Whether the latent reward sees a shaking camera, and which stage loses it."""

    clips: int = 64
    """Held-out worlds, each filmed steadily and with handheld jitter."""
    seed: int = 0
    """The first of them."""
    out: Path | None = None
    """Folder for jitter.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateRobustness(ModelChoice):
    """The paper's robustness figure: camera poses by Φ_g from noisy latents, and by Φ from their decoded video."""

    clips: int = 64
    """Held-out worlds to measure on."""
    seed: int = 0
    """The first of them; it also decides the noise."""
    levels: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    """Standard deviations of the noise; the latents' own is about 1. 0, no noise, is always among them."""
    out: Path | None = None
    """Folder for robustness.json."""
    record: bool = False
    """Also write the numbers to assets/results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateAgreement(ModelChoice):
    """Whether the latent reward tells videos of one prompt apart as the reward of their decoded frames does: where it
    does not, training learns from noise."""

    count: int = 16
    """Prompts: held-out captions, or the first ones of --prompts."""
    group_size: int = 8
    """Videos of each, drawn with the settings of `train` but without its noise."""
    seed: int = 0
    """The first held-out world, and the first video's noise."""
    prompts: Path | None = None
    """A text file, one prompt a line; released models need it."""
    adapter: Path | None = None
    """A LoRA on the video model: a .safetensors file or a folder that `train` wrote."""
    steps: int | None = None
    """Denoising steps; those of `train` if not given."""
    guidance: float | None = None
    """Guidance scale, 1 is off; that of `train` if not given."""
    out: Path | None = None
    """Folder for agreement.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateGradients(ModelChoice):
    """Whether the rewards of different videos ask for the same change of the adapter: where they do not, no small step
    raises them all, and a few training iterations cannot either."""

    count: int = 24
    """Videos of held-out captions, drawn with the settings of `train` but without its noise."""
    seed: int = 0
    """The first held-out world, and its video's noise."""
    adapter: Path | None = None
    """Where to ask: at this LoRA; at the start of a training if not given."""
    out: Path | None = None
    """Folder for gradients.json."""


EvaluateSubject = (
    Annotated[EvaluateAdapters, subcommand("adapters")]
    | Annotated[EvaluateAgreement, subcommand("agreement")]
    | Annotated[EvaluateAssets, subcommand("assets")]
    | Annotated[EvaluateGradients, subcommand("gradients")]
    | Annotated[EvaluateJitter, subcommand("jitter")]
    | Annotated[EvaluateRobustness, subcommand("robustness")]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluate:
    """Measure: adapters against the base model (if nothing else is named), the embedded weights, what the reward sees,
    how robust the latent geometry model is."""

    subject: EvaluateSubject


def with_subject(argv: list[str]) -> list[str]:
    """The command line with the subject of a bare `evaluate` put in."""
    if argv[:1] == ["evaluate"] and (len(argv) == 1 or argv[1].startswith("-")):
        return [argv[0], SUBJECTS[0], *argv[1:]]
    return argv
