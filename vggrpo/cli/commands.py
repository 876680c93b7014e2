"""What each command takes. The texts here are what ``--help`` shows; nothing heavy is imported."""

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg, subcommand

from vggrpo.grpo.config import GrpoConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Options of every command."""

    json: bool = False
    """Print the result as one JSON object on the last line of standard output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generate(Command):
    """From a prompt to a run folder: video, latents, 4D scene and rewards."""

    prompt: str
    """What to show, in the preset's words."""
    out: Path
    """The run folder to write: new, empty, or an earlier run, which is replaced."""
    preset: str = "tiny"
    """See `presets`."""
    seed: int = 0
    """The same seed gives the same files."""
    steps: int | None = None
    """Denoising steps; the preset's if not given."""
    guidance: float | None = None
    """Guidance scale, 1 is off; the preset's if not given."""
    first_frame: Path | None = None
    """An image to start from."""
    adapter: Path | None = None
    """A LoRA that `train` wrote: a .safetensors file or its folder."""
    reward_guidance: float | None = None
    """Scale of latent reward guidance (try 30): rewards steer the sampling, nothing is trained; off if not given. The
    unguided video of the same seed is denoised too, so that the manifest can tell the rewards before and after."""
    reward_guidance_every: int | None = None
    """Guide every n-th denoising step; 2 if not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score(Command):
    """Rewards of a video, of latents, or of a geometry file; give exactly one of the three."""

    out: Path
    """The run folder to write."""
    geometry: Path | None = None
    """A geometry.npz: no model is loaded."""
    latents: Path | None = None
    """A latents.safetensors: read by the latent geometry model, nothing is decoded."""
    video: Path | None = None
    """A video file: read by the geometry model at the preset's size and rate."""
    preset: str = "tiny"
    """Whose models read latents and video."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Presets(Command):
    """List the presets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench(Command):
    """Time the phases of a command on this machine."""

    what: Positional[Literal["generate", "reward", "train"]]
    """generate: first run and warm. reward: read from latents against read from the decoded video, with memory.
    train: an iteration by phase, and how it grows with denoising steps and group size."""
    preset: str = "tiny"
    """See `presets`."""
    steps: int | None = None
    """Denoising steps; the preset's if not given."""
    repeats: int = 2
    """Warm runs; the fastest one is shown."""
    videos: int = 4
    """Videos whose rewards are computed together (reward only)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples(Command):
    """Make the example runs that ship with the page."""

    out: Path = Path("assets/examples")
    """One run folder an example is written here."""
    preset: str = "tiny"
    """See `presets`."""
    only: tuple[str, ...] = ()
    """Names of the examples to make; all if not given."""
    pairs: bool = False
    """Make the pairs instead, base against `--adapter`, in the subfolder pairs."""
    adapter: Path | None = None
    """The adapter of the pairs' tuned side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compare(Command):
    """Rewards with and without an adapter at the same prompts and seeds: paired differences with their intervals."""

    out: Path
    """Folder for comparison.json."""
    adapter: Path | None = None
    """The tuned side's LoRA: a .safetensors file or a folder that `train` wrote."""
    other_adapter: Path | None = None
    """A LoRA for the base side, to compare two adapters; the base model if not given."""
    prompts: Path | None = None
    """A text file with one prompt a line; seeds count up from --seed."""
    count: int | None = None
    """This many captions of worlds that no training has seen, from world --seed on, instead of --prompts."""
    seed: int = 0
    """The first seed; both sides start from the same noise."""
    preset: str = "tiny"
    """See `presets`."""
    steps: int | None = None
    """Denoising steps; the preset's if not given."""
    guidance: float | None = None
    """Guidance scale on both sides, 1 is off; the preset's if not given."""
    batch: int = 4
    """Videos denoised together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainCommand(Command):
    """Options of every training command."""

    resume: bool = False
    """Go on from the last checkpoint in the output folder."""
    steps: int | None = None
    """Training steps; the shipped weights' number if not given."""
    seed: int = 0
    """Decides every random number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainTokenizer(Command):
    """Write the tokenizer of the procedural world's words (`pretrain video` makes its own)."""

    out: Path = Path("runs/tokenizer")
    """Output folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainVae(PretrainCommand):
    """Train the video VAE, an AutoencoderKLWan."""

    out: Path = Path("runs/vae")
    """Output folder; the finished VAE is in its subfolder vae."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainVideo(PretrainCommand):
    """Train the video transformer and its text encoder by flow matching."""

    out: Path = Path("runs/video")
    """Output folder; the finished WanPipeline is in its subfolder pipeline."""
    vae: Path = Path("runs/vae/vae")
    """The trained VAE."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainGeometry(PretrainCommand):
    """Train the geometry model Φ on the world's exact truth."""

    out: Path = Path("runs/geometry")
    """Output folder; the finished model is in its subfolder model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainJudge(PretrainCommand):
    """Train the judge of objects, which `evaluate` reads generated frames with; about a quarter of an hour."""

    out: Path = Path("runs/judge")
    """Output folder; the finished judge is in its subfolder model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainShip(Command):
    """Copy finished runs into the assets, measure them on held-out clips and write the MANIFEST."""

    runs: Path = Path("runs")
    """Holds the finished runs vae, video, geometry and lgm."""
    assets: Path = Path("assets")
    """Where the weights ship from."""
    clips: int = 32
    """Held-out clips to measure on."""


Stage = (
    Annotated[PretrainTokenizer, subcommand("tokenizer")]
    | Annotated[PretrainVae, subcommand("vae")]
    | Annotated[PretrainVideo, subcommand("video")]
    | Annotated[PretrainGeometry, subcommand("geometry")]
    | Annotated[PretrainJudge, subcommand("judge")]
    | Annotated[PretrainShip, subcommand("ship")]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrain:
    """Train the embedded models from nothing, in the order of the list."""

    stage: Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainLgm(PretrainCommand):
    """Figure (a): search the stitching layer, then align the latent geometry model Φ_g with Φ."""

    out: Path = Path("runs/lgm")
    """Output folder; the finished model is in its subfolder model."""
    pipeline: Path = Path("runs/video/pipeline")
    """A WanPipeline folder: its VAE gives the latents, its transformer the generated clips."""
    geometry: Path = Path("runs/geometry/model")
    """The geometry model Φ, which stays frozen."""
    world_clips: int = 1000
    """Clips of the procedural world to align on."""
    generated_clips: int = 200
    """Clips that the video model generates to align on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Train(Command):
    """Figure (b): fine-tune the video model's adapter with VGGRPO. Defaults are the preset's, shown by
    `train --preset NAME --help`; `accelerate launch -m vggrpo train …` runs it on several GPUs or nodes."""

    out: Path
    """The run folder: checkpoints, metrics, samples, and the finished adapter in its subfolder adapter."""
    resume: bool = False
    """Go on from the last checkpoint in the run folder, with the settings that it was started with."""
    config: Path | None = None
    """A YAML file of the settings below, for example the config.yaml of another run; other flags go before it."""
    settings: Annotated[GrpoConfig, arg(name="")] = field(default_factory=GrpoConfig)
    """The settings."""


AnyCommand = (
    Annotated[Generate, subcommand("generate")]
    | Annotated[Score, subcommand("score")]
    | Annotated[Presets, subcommand("presets")]
    | Annotated[Pretrain, subcommand("pretrain")]
    | Annotated[TrainLgm, subcommand("train-lgm")]
    | Annotated[Compare, subcommand("compare")]
    | Annotated[Bench, subcommand("bench")]
    | Annotated[Examples, subcommand("examples")]
)


def with_train(settings: GrpoConfig) -> Any:
    """All commands; ``settings`` are what `train` takes where no flag says otherwise (and what its help shows)."""
    defaults = ("settings", Annotated[GrpoConfig, arg(name="")], field(default=settings))
    train = make_dataclass(
        "Train", [defaults], bases=(Train,), namespace={"__doc__": Train.__doc__}, frozen=True, kw_only=True
    )
    return AnyCommand | Annotated[train, subcommand("train")]
