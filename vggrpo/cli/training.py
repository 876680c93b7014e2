"""``pretrain …`` and ``train-lgm``: the commands that make the shipped weights."""

from dataclasses import replace
from pathlib import Path

from vggrpo.cli.commands import (
    Command,
    PretrainGeometry,
    PretrainJudge,
    PretrainShip,
    PretrainTokenizer,
    PretrainVae,
    PretrainVideo,
    TrainLgm,
)
from vggrpo.cli.terminal import Outcome
from vggrpo.cli.training_run import begin_run, loop_of, require_folder, training_outcome
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import require_writable


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
            from vggrpo.cli import lgm

            return lgm.run(command)
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
    if command.start_from is not None:
        require_folder(command.start_from, made_by="pretrain vae")
        training = training.going_on(command.start_from, decoder_only=command.decoder_only)
    elif command.decoder_only:
        raise UserError("--decoder-only trains a finished VAE further: name it with --start-from.")
    training = replace(training, loop=loop_of(command, training.loop))
    begin_run(command.out, training, resume=command.resume)
    return training_outcome(pretrain_vae(training, command.out, resume=command.resume), command.out)


def _video(command: PretrainVideo) -> Outcome:
    from vggrpo.pretraining.video import VideoTraining, pretrain_video

    require_folder(command.vae, made_by="pretrain vae")
    training = VideoTraining(vae=command.vae, compile=command.compile)
    if command.start_from is not None:
        require_folder(command.start_from, made_by="pretrain video")
        training = training.going_on(command.start_from)
    training = replace(training, loop=loop_of(command, training.loop))
    begin_run(command.out, training, resume=command.resume)
    return training_outcome(pretrain_video(training, command.out, resume=command.resume), command.out)


def _geometry(command: PretrainGeometry) -> Outcome:
    from vggrpo.pretraining.geometry import JUDGE_TRAINING, TINY_TRAINING, pretrain_geometry

    chosen = JUDGE_TRAINING if command.judge else TINY_TRAINING
    if command.start_from is not None:
        require_folder(command.start_from, made_by="pretrain geometry")
        chosen = chosen.going_on(command.start_from)
    out = command.out or Path("runs/geometry-judge" if command.judge else "runs/geometry")
    loop = loop_of(command, chosen.loop)
    # The same --seed never gives the judge and the model that it is to judge the same random numbers.
    training = replace(chosen, loop=replace(loop, seed=loop.seed + chosen.loop.seed))
    begin_run(out, training, resume=command.resume)
    return training_outcome(pretrain_geometry(training, out=out, resume=command.resume), out)


def _judge(command: PretrainJudge) -> Outcome:
    from vggrpo.pretraining.judge import JudgeTraining, pretrain_judge

    training = JudgeTraining()
    training = replace(training, loop=loop_of(command, training.loop))
    begin_run(command.out, training, resume=command.resume)
    return training_outcome(pretrain_judge(training, command.out, resume=command.resume), command.out)


def _ship(command: PretrainShip) -> Outcome:
    from vggrpo.pretraining.assets import ship_assets

    if command.clips < 1:
        raise UserError(f"{command.clips} held-out clips were asked for; give at least 1.")
    require_writable(command.assets)
    manifest = ship_assets(command.runs, command.assets, clips=command.clips)
    files = manifest["files"]
    count = len(files) if isinstance(files, dict) else 0
    return Outcome(result=manifest, shown=f"{count} files listed in {command.assets / 'MANIFEST.json'}")
