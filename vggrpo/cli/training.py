"""``pretrain …`` and ``train-lgm``: the commands that make the shipped weights."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vggrpo.cli.commands import (
    Command,
    PretrainCommand,
    PretrainGeometry,
    PretrainJudge,
    PretrainShip,
    PretrainTokenizer,
    PretrainVae,
    PretrainVideo,
    TrainLgm,
)
from vggrpo.cli.terminal import Outcome, note
from vggrpo.latent_geometry.stitching import AlignedClip
from vggrpo.latents import VideoVAE
from vggrpo.runtime.checkpoint_folder import checkpoint_folders
from vggrpo.runtime.config_file import write_config
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import require_writable
from vggrpo.runtime.training import LoopConfig, TrainingResult

LGM_LOOP = LoopConfig(steps=1000, learning_rate=2e-4, ema_decay=0.99, checkpoint_every=100)
"""The paper's learning rate and schedule; the number of steps is that of the embedded model."""


def run(command: Command) -> Outcome:
    """Run one of this module's commands."""
    match command:
        case PretrainTokenizer():
            return _tokenizer(command)
        case PretrainVae():
            return _vae(command)
        case PretrainVideo():
            return _video(command)
        case PretrainGeometry():
            return _geometry(command)
        case PretrainJudge():
            return _judge(command)
        case PretrainShip():
            return _ship(command)
        case TrainLgm():
            return _train_lgm(command)
    raise TypeError(f"no command {type(command).__name__}")


def _tokenizer(command: PretrainTokenizer) -> Outcome:
    from vggrpo.pretraining.text import build_tokenizer
    from vggrpo.pretraining.video import VideoArchitecture

    require_writable(command.out)
    tokenizer = build_tokenizer(VideoArchitecture().max_tokens)
    tokenizer.save_pretrained(command.out)
    words = len(tokenizer)
    return Outcome(result={"out": str(command.out), "words": words}, shown=f"{command.out}: {words} words")


def _vae(command: PretrainVae) -> Outcome:
    from vggrpo.pretraining.vae import VaeTraining, pretrain_vae

    training = VaeTraining()
    training = replace(training, loop=_loop(training.loop, command))
    _begin(command, training)
    return _outcome(pretrain_vae(training, command.out, resume=command.resume), command.out)


def _video(command: PretrainVideo) -> Outcome:
    from vggrpo.pretraining.video import VideoTraining, pretrain_video

    _require_folder(command.vae, made_by="pretrain vae")
    training = VideoTraining(vae=command.vae)
    training = replace(training, loop=_loop(training.loop, command))
    _begin(command, training)
    return _outcome(pretrain_video(training, command.out, resume=command.resume), command.out)


def _geometry(command: PretrainGeometry) -> Outcome:
    from vggrpo.pretraining.geometry import TINY_TRAINING, pretrain_geometry

    training = replace(TINY_TRAINING, loop=_loop(TINY_TRAINING.loop, command))
    _begin(command, training)
    return _outcome(pretrain_geometry(training, out=command.out, resume=command.resume), command.out)


def _judge(command: PretrainJudge) -> Outcome:
    from vggrpo.pretraining.judge import JudgeTraining, pretrain_judge

    training = JudgeTraining()
    training = replace(training, loop=_loop(training.loop, command))
    _begin(command, training)
    return _outcome(pretrain_judge(training, command.out, resume=command.resume), command.out)


def _ship(command: PretrainShip) -> Outcome:
    from vggrpo.pretraining.assets import ship_assets

    if command.clips < 1:
        raise UserError(f"{command.clips} held-out clips were asked for; give at least 1.")
    require_writable(command.assets)
    manifest = ship_assets(command.runs, command.assets, clips=command.clips)
    files = manifest["files"]
    count = len(files) if isinstance(files, dict) else 0
    return Outcome(result=manifest, shown=f"{count} files listed in {command.assets / 'MANIFEST.json'}")


def _train_lgm(command: TrainLgm) -> Outcome:
    """Load the frozen models, gather both kinds of clips, train."""
    _require_folder(command.pipeline, made_by="pretrain video")
    _require_folder(command.geometry, made_by="pretrain geometry")
    if command.world_clips < 1 or command.generated_clips < 0:
        raise UserError("train-lgm needs at least one world clip, and no negative number of generated ones.")
    loop = _loop(LGM_LOOP, command)
    require_writable(command.out)
    from vggrpo.latent_geometry.connector import ConnectorConfig
    from vggrpo.latent_geometry.foundation.any4d_checkpoint import load_any4d
    from vggrpo.latent_geometry.train import AlignmentData, LgmTraining, train_lgm
    from vggrpo.pretraining.alignment_data import WorldClips
    from vggrpo.pretraining.data import ClipCache, default_cache
    from vggrpo.runtime.device import choose_dtype, set_threads

    set_threads("background")
    device = torch.device("cpu")
    vae = VideoVAE.load(command.pipeline / "vae", dtype=choose_dtype(device), device=device)
    teacher = load_any4d(command.geometry).eval().requires_grad_(requires_grad=False)
    world = WorldClips(ClipCache(folder=default_cache()), vae, count=command.world_clips)
    data = AlignmentData(world=world, generated=_generated_clips(command, vae))
    connector = ConnectorConfig(latent_channels=vae.model.config["z_dim"], token_dim=teacher.token_dim)
    training = LgmTraining(connector=connector, loop=loop)
    _begin(command, training)
    return _outcome(train_lgm(teacher, data, training=training, out=command.out, resume=command.resume), command.out)


def _generated_clips(command: TrainLgm, vae: VideoVAE) -> Sequence[AlignedClip]:
    """Clips of the video model itself, kept beside the run so that ``--resume`` finds them."""
    if not command.generated_clips:
        return ()
    from vggrpo.policy.backbone import TextConditioner, load_transformer
    from vggrpo.pretraining.alignment_data import SamplerSettings, generate_clips
    from vggrpo.pretraining.video import VideoArchitecture

    device, dtype = vae.model.device, vae.model.dtype
    text = TextConditioner.load(
        command.pipeline, dtype=torch.float32, device=device, max_tokens=VideoArchitecture().max_tokens
    )
    return generate_clips(
        load_transformer(command.pipeline, dtype=dtype, device=device),
        text,
        vae,
        count=command.generated_clips,
        folder=command.out / "generated",
        settings=SamplerSettings(),
    )


def _loop(loop: LoopConfig, command: PretrainCommand) -> LoopConfig:
    """The shipped weights' loop with the options of the command line."""
    if command.seed < 0:
        raise UserError(f"The seed is {command.seed}; give a whole number from 0.")
    if command.steps is not None and command.steps < 1:
        raise UserError(f"{command.steps} training steps were asked for; give at least 1.")
    return replace(loop, seed=command.seed, steps=loop.steps if command.steps is None else command.steps)


def _begin(
    command: PretrainVae | PretrainVideo | PretrainGeometry | PretrainJudge | TrainLgm, training: object
) -> None:
    """Write the run folder's ``config.yaml``, unless the folder holds a run that is not to be gone on with."""
    require_writable(command.out)
    if command.resume or not checkpoint_folders(command.out):
        write_config(command.out, training)


def _require_folder(folder: Path, *, made_by: str) -> None:
    """An earlier stage's result."""
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: run `python -m vggrpo {made_by}` first, or name its result.")


def _outcome(result: TrainingResult, out: Path) -> Outcome:
    """How far a training came."""
    if not result.finished:
        note(f"stopped after step {result.steps_done}; go on with --resume.")
    summary = {
        "out": str(out),
        "steps_done": result.steps_done,
        "finished": result.finished,
        "seconds": round(result.seconds, 1),
        "last_metrics": {name: round(value, 6) for name, value in result.last_metrics.items()},
    }
    return Outcome(result=summary, shown=f"{out}: {result.steps_done} steps in {result.seconds:.0f} s")
