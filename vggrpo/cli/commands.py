"""What each command takes. The texts here are what ``--help`` shows; nothing heavy is imported."""

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg, subcommand

from vggrpo.cli.evaluate_commands import Evaluate
from vggrpo.cli.options import Command, JudgingCommand
from vggrpo.grpo.config import GrpoConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Generate(JudgingCommand):
    """From a prompt to a run folder: video, latents, 4D scene and rewards."""

    prompt: str
    """What to show, in the preset's words."""
    out: Path
    """The run folder to write: new, empty, or an earlier run, which is replaced."""
    seed: int = 0
    """The same seed gives the same files."""
    steps: int | None = None
    """Denoising steps; the preset's if not given."""
    guidance: float | None = None
    """Guidance scale, 1 is off; the preset's if not given."""
    first_frame: Path | None = None
    """An image to start from, for presets that take one; its middle is cropped to the video's shape."""
    adapter: Path | None = None
    """A LoRA that `train` wrote: a .safetensors file or its folder."""
    reward_guidance: float | None = None
    """Scale of latent reward guidance (try 30): rewards steer the sampling, nothing is trained; off if not given. The
    unguided video of the same seed is denoised too, so that the manifest can tell the rewards before and after."""
    reward_guidance_every: int | None = None
    """Guide every n-th denoising step; 2 if not given."""
    geometry: str | None = None
    """The geometry model Φ: any4d, or vggt for scenes that stand still."""
    reward_space: Literal["latent", "rgb"] = "latent"
    """Read the geometry from the latents by Φ_g, or from the decoded video by Φ (slower, needs no trained Φ_g)."""

    @property
    def geometry_model_name(self) -> str | None:
        """See ``WeightsChoice``."""
        return self.geometry


@dataclass(frozen=True, kw_only=True, slots=True)
class Score(JudgingCommand):
    """Rewards of a video, of latents, or of a geometry file; give exactly one of the three."""

    out: Path
    """The run folder to write."""
    geometry: Path | None = None
    """A geometry.npz: no model is loaded."""
    latents: Path | None = None
    """A latents.safetensors: read by the latent geometry model, nothing is decoded."""
    video: Path | None = None
    """A video file: read by the geometry model at the preset's size and rate."""
    reward_space: Literal["latent", "rgb"] = "latent"
    """For --latents: read them by Φ_g, or decode them and read the video by Φ."""
    geometry_model: str | None = None
    """The geometry model Φ: any4d, or vggt for scenes that stand still."""

    @property
    def geometry_model_name(self) -> str | None:
        """See ``WeightsChoice``."""
        return self.geometry_model


@dataclass(frozen=True, kw_only=True, slots=True)
class Presets(Command):
    """List the presets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench(Command):
    """Time the phases of a command on this machine."""

    what: Positional[Literal["phases", "generate", "reward", "train"]] = "phases"
    """phases: rollout, both rewards and update of a training at the preset's true sizes, against the device's matrix
    rate. generate: first run and warm. reward: read from latents against read from the decoded video, with memory.
    train: an iteration by phase, and how it grows with denoising steps and group size."""
    preset: str = "tiny"
    """See `presets`."""
    random_weights: bool = False
    """The preset's sizes with random numbers, for which nothing is fetched (phases only)."""
    scale: int = 1
    """Divide the models' depth and width and the video's height and width by this, to try the command on a CPU
    (phases only, with --random-weights)."""
    micro_batch: int | None = None
    """Videos in the transformer at once (phases only); the preset's for `train` if not given."""
    steps: int | None = None
    """Denoising steps; the preset's if not given."""
    repeats: int = 2
    """Warm runs; the fastest one is shown."""
    videos: int = 4
    """Videos whose rewards are computed together (reward only)."""
    record: bool = False
    """Also write the numbers to assets/results (reward only)."""


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
class Compare(JudgingCommand):
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
    steps: int | None = None
    """Denoising steps; the preset's if not given."""
    guidance: float | None = None
    """Guidance scale on both sides, 1 is off; the preset's if not given."""
    batch: int = 4
    """Videos denoised together."""
    geometry: str | None = None
    """The geometry model Φ: any4d, or vggt for scenes that stand still."""
    reward_space: Literal["latent", "rgb"] = "latent"
    """Judge latents by Φ_g, or decoded video by Φ (slower, needs no trained Φ_g)."""

    @property
    def geometry_model_name(self) -> str | None:
        """See ``WeightsChoice``."""
        return self.geometry


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
    start_from: Path | None = None
    """A finished VAE to train further, for example assets/tiny/vae."""
    decoder_only: bool = False
    """Train its decoder alone: latents, and every model that was trained on them, keep their meaning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainVideo(PretrainCommand):
    """Train the video transformer and its text encoder by flow matching."""

    out: Path = Path("runs/video")
    """Output folder; the finished WanPipeline is in its subfolder pipeline."""
    vae: Path = Path("runs/vae/vae")
    """The trained VAE."""
    start_from: Path | None = None
    """A finished pipeline to train further, for example assets/tiny; --vae must give the latents that it knows."""
    compile: bool = False
    """Compile the transformer's blocks: less time a step, for a minute at the start; takes a C++ compiler."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainGeometry(PretrainCommand):
    """Train the geometry model Φ on the world's exact truth, or the independent one that `evaluate` judges with."""

    judge: bool = False
    """Train the independent judge: another size, other random numbers, other worlds; never a reward or a teacher."""
    out: Path | None = None
    """Output folder, runs/geometry (runs/geometry-judge) if not given; the model is in its subfolder model."""
    start_from: Path | None = None
    """A finished model of the same kind to train further, for example assets/tiny-geometry."""


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
    """Output folder; the finished model is in its subfolder model, to be given as --latent-geometry elsewhere."""
    preset: str = "tiny"
    """Whose video model; see `presets`."""
    model_folder: Annotated[Path | None, arg(aliases=("--pipeline",))] = None
    """A local WanPipeline folder: its VAE gives the latents, its transformer the generated clips. Not given:
    runs/video/pipeline for tiny, else the preset's own is fetched."""
    offline: bool = False
    """Fetch nothing: what is not in the local cache is an error."""
    geometry: str | None = None
    """The frozen geometry model Φ: any4d or vggt, or the folder of one that `pretrain geometry` wrote. Not given:
    runs/geometry/model for tiny, else the preset's."""
    geometry_weights: Path | None = None
    """The weights of the model that --geometry names, a folder or one file, instead of fetching them."""
    height: int | None = None
    """Height of the clips in pixels; not given: that of the videos that `train` draws."""
    width: int | None = None
    """Width of the clips in pixels."""
    frames: int | None = None
    """Frames of a clip, 4 n + 1."""
    videos: Path | None = None
    """A folder of real videos to align on; nothing outside it is read. tiny takes its procedural world if not given."""
    layout: Literal["auto", "folder", "dl3dv", "realestate10k", "miradata"] = "auto"
    """How the videos lie there: any folder of video files, or as one of the data sets has them."""
    captions: Path | None = None
    """A .csv or .jsonl table of the videos' captions, besides text files beside them and tables in the folder."""
    prompts: Path | None = None
    """A text file of prompts for the generated clips, one a line; the videos' captions if not given."""
    clips: Annotated[int, arg(aliases=("--world-clips",))] = 1000
    """Clips to align on, of the videos or of the procedural world: at most, where videos have fewer."""
    generated_clips: int = 200
    """Clips that the video model generates to align on."""
    generated_steps: int | None = None
    """Denoising steps of those; 10 for the embedded models, 30 for released ones."""
    latent_noise: float = 0.4
    """The most noise, in units of normalised latents, that Φ_g reads its latents through; 0 trains on clean ones."""
    taught_frames: int | None = None
    """Frames of each clip whose reading by Φ is kept on disk; 0 lets Φ read at every step.
    Not given: 8 for released models, 0 for the embedded ones."""
    cache: Path | None = None
    """Folder for latents and readings, shared by runs; $VGGRPO_CACHE or ~/.cache/vggrpo if not given."""
    cache_gib: float = 200.0
    """The most that latents, readings and generated clips may take on disk; what they need is printed first."""
    search_memory_gib: float = 8.0
    """The most memory for the sums of the stitching search; less of it reads the clips more than once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Train(Command):
    """Figure (b): fine-tune the video model's adapter with VGGRPO, or by --objective with what it is compared with.
    Defaults are the preset's, shown by `train --preset NAME --help`; `accelerate launch -m vggrpo train …` runs it on
    several GPUs or nodes."""

    out: Path
    """The run folder: checkpoints, metrics, samples, and the finished adapter in its subfolder adapter."""
    resume: bool = False
    """Go on from the last checkpoint in the run folder, with the settings that it was started with."""
    config: Path | None = None
    """A YAML file of the settings below, for example the config.yaml of another run; other flags go before it."""
    settings: Annotated[GrpoConfig, arg(name="")] = field(default_factory=GrpoConfig)
    """The settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan(Command):
    """Memory and time of a `train` with the same settings, by phase, before anything is loaded: for this machine, or
    for the one that is described. Times are the least that its matrix rate allows: expect two or three times that."""

    memory_gib: float | None = None
    """Plan for a GPU with this much memory instead of this machine."""
    tflops: float | None = None
    """Its rate of bf16 matrix products in TFLOP/s, for the times; this machine's is measured."""
    processes: int = 1
    """GPUs that share the work."""
    config: Path | None = None
    """A YAML file of the settings below, for example the config.yaml of another run; other flags go before it."""
    settings: Annotated[GrpoConfig, arg(name="")] = field(default_factory=GrpoConfig)
    """The settings of `train`."""


AnyCommand = (
    Annotated[Generate, subcommand("generate")]
    | Annotated[Score, subcommand("score")]
    | Annotated[Presets, subcommand("presets")]
    | Annotated[Pretrain, subcommand("pretrain")]
    | Annotated[TrainLgm, subcommand("train-lgm")]
    | Annotated[Compare, subcommand("compare")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Bench, subcommand("bench")]
    | Annotated[Examples, subcommand("examples")]
)


def with_train(settings: GrpoConfig) -> Any:
    """All commands; ``settings`` are what `train` and `plan` take where no flag says otherwise, and what help shows."""
    defaults = ("settings", Annotated[GrpoConfig, arg(name="")], field(default=settings))
    train, plan = (
        make_dataclass(
            base.__name__, [defaults], bases=(base,), namespace={"__doc__": base.__doc__}, frozen=True, kw_only=True
        )
        for base in (Train, Plan)
    )
    return AnyCommand | Annotated[train, subcommand("train")] | Annotated[plan, subcommand("plan")]
