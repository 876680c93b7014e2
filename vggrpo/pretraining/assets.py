"""``pretrain ship``: finished training runs to shipped weights, measured on held-out seeds, listed in the MANIFEST.

Runs are expected as the commands leave them: ``RUNS/vae``, ``RUNS/video``, ``RUNS/geometry``, ``RUNS/lgm``, the judges
``RUNS/geometry-judge`` and ``RUNS/judge``, and the fine-tune ``RUNS/tuned``. What has no new run stays as it ships.
"""

import json
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import yaml
from safetensors.torch import load_file

from vggrpo.latent_geometry.foundation.registry import load_geometry
from vggrpo.latent_geometry.model import LatentGeometryModel
from vggrpo.latent_geometry.train import STITCHING_NAME, evaluate_latent_geometry
from vggrpo.latents import VideoVAE, video_from_frames
from vggrpo.pretraining.data import ClipCache, default_cache
from vggrpo.pretraining.geometry import JUDGE_TRAINING, evaluate_geometry_model
from vggrpo.pretraining.judge import REPORT
from vggrpo.pretraining.vae import reconstruction_quality
from vggrpo.pretraining.video import held_out_loss
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_text
from vggrpo.runtime.integrity import sha256_of
from vggrpo.types import Latents, WorldClip

MANIFEST = "MANIFEST.json"
NOTES = "notes.txt"
"""What a run's command does not say, written into its folder by whoever ran it: interruptions, changed settings."""
HELD_OUT_CLIPS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One shipped folder: the run it comes from, the command that made it, and where the run left it."""

    run: str
    command: str
    source: str
    target: str
    seed: int = 0
    data: str = "procedural world, training seeds from 1000000"


PARTS = (
    Part(
        run="vae",
        command="python -m vggrpo pretrain vae --out RUNS/vae",
        source="vae",
        target="tiny/vae",
    ),
    Part(
        run="video",
        command="python -m vggrpo pretrain video --vae RUNS/vae/vae --out RUNS/video",
        source="pipeline",
        target="tiny",
    ),
    Part(
        run="geometry",
        command="python -m vggrpo pretrain geometry --out RUNS/geometry",
        source="model",
        target="tiny-geometry",
    ),
    Part(
        run="lgm",
        command=(
            "python -m vggrpo train-lgm --pipeline RUNS/video/pipeline --geometry RUNS/geometry/model --out RUNS/lgm"
        ),
        source="model",
        target="tiny-lgm",
    ),
)
JUDGES = (
    Part(
        run="geometry-judge",
        command="python -m vggrpo pretrain geometry --judge --out RUNS/geometry-judge",
        source="model",
        target="tiny-geometry-judge",
        seed=JUDGE_TRAINING.loop.seed,
        data=f"procedural world, {JUDGE_TRAINING.num_clips} seeds from {JUDGE_TRAINING.first_clip}",
    ),
    Part(
        run="judge",
        command="python -m vggrpo pretrain judge --out RUNS/judge",
        source="model",
        target="tiny-judge",
    ),
)
"""What evaluation judges with; a part of the evidence, and of no training."""


ADAPTERS = "adapters"
ADAPTER_NAME = "vggrpo-tiny"
TUNED = "tuned"
"""The run folder of the fine-tune whose adapter ships. It belongs to the base model that it was trained on."""


def ship_assets(runs: Path, assets: Path, *, clips: int = HELD_OUT_CLIPS) -> dict[str, object]:
    """Copy finished weights into ``assets``, measure them, write the MANIFEST and return it.

    A part without a new run stays as it ships, with the MANIFEST's word on how it was made.

    Raises:
        UserError: a part was neither run to its end nor ships already, or parts do not belong together.
    """
    fresh = [part for part in PARTS if (runs / part.run / part.source).is_dir()]
    if not fresh:
        raise UserError(f"{runs} holds no finished run: first run `{PARTS[0].command}`.")
    # All that can be wrong is said before anything is copied.
    made = {part.run: _describe(part, runs) if part in fresh else _former_entry(part, assets) for part in PARTS}
    vae, video = PARTS[0], PARTS[1]
    vae_folder = runs / vae.run / vae.source if vae in fresh else assets / vae.target
    pipeline = runs / video.run / video.source if video in fresh else assets / video.target
    require_same_latents(vae_folder, pipeline / "vae")
    with TemporaryDirectory() as scratch:
        # The pipeline brings a VAE, which gives way to the one whose decoder may have been trained further since.
        chosen = shutil.copytree(vae_folder, Path(scratch) / "vae")
        for part in fresh:
            if part != vae:
                _replace(assets / part.target, source=runs / part.run / part.source)
        _replace(assets / vae.target, source=chosen)
    adapter = ship_adapter(runs / TUNED, assets, base_is_new=video in fresh)
    described = ship_judges(runs, assets, clips=clips) | adapter
    measured = measure_assets(assets, clips=clips)
    manifest: dict[str, object] = {
        "made_by": "python -m vggrpo pretrain ship --runs RUNS",
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)",
        "held_out_seeds": [0, clips - 1],
        "parts": {run: entry | {"held_out": measured[run]} for run, entry in made.items()} | described,
        "files": _hashes(assets),
    }
    atomic_write_text(assets / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return manifest


def _replace(target: Path, *, source: Path) -> None:
    """A folder by another, without the paths of the machine that made it."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    forget_paths(target)


def require_same_latents(vae: Path, known: Path) -> None:
    """Raises a UserError unless two VAE folders encode alike: encoder and latent statistics, to the bit."""
    first, second = (_encoding(folder) for folder in (vae, known))
    same_names = first.keys() == second.keys()
    if not same_names or not all(torch.equal(tensor, second[name]) for name, tensor in first.items()):
        raise UserError(f"The video model was trained on other latents than {vae} gives: run `pretrain video` again.")


def _encoding(vae: Path) -> dict[str, torch.Tensor]:
    """Everything of a VAE's folder that its latents depend on."""
    weights = {name: tensor for path in sorted(vae.glob("*.safetensors")) for name, tensor in load_file(path).items()}
    config = json.loads((vae / "config.json").read_text(encoding="utf-8"))
    statistics = {name: torch.tensor(config[name]) for name in ("latents_mean", "latents_std")}
    return statistics | {name: t for name, t in weights.items() if name.startswith(("encoder.", "quant_conv."))}


def ship_judges(runs: Path, assets: Path, *, clips: int) -> dict[str, object]:
    """Copy the judges that were trained anew; returns the MANIFEST's entries of all that ship.

    Raises:
        UserError: a judge lies in ``assets`` that neither a run nor the MANIFEST describes.
    """
    described: dict[str, object] = {}
    for part in JUDGES:
        source, target = runs / part.run / part.source, assets / part.target
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
            described[part.run] = _describe(part, runs) | {"held_out": _measure_judge(part, runs, assets, clips=clips)}
        elif target.is_dir():
            described[part.run] = _former_entry(part, assets)
    return described


def _measure_judge(part: Part, runs: Path, assets: Path, *, clips: int) -> object:
    """Held-out numbers of a judge: of geometry measured now, of objects as its own training reported them."""
    if part.run == "judge":
        return json.loads((runs / part.run / REPORT).read_text(encoding="utf-8"))["held_out"]
    model = load_geometry("any4d", assets / part.target)
    cache = ClipCache(folder=default_cache())
    return evaluate_geometry_model(model, (cache.clip(seed) for seed in range(clips))).to_json()


def _former_entry(part: Part, assets: Path) -> dict[str, object]:
    """How a part that ships already was made."""
    if not (assets / part.target).is_dir():
        raise UserError(f"{part.run} neither was run to its end nor ships already: first run `{part.command}`.")
    manifest = assets / MANIFEST
    entries = json.loads(manifest.read_text(encoding="utf-8"))["parts"] if manifest.is_file() else {}
    if part.run not in entries:
        raise UserError(f"{assets / part.target} is not in {manifest}: run `{part.command}`, or delete the folder.")
    return dict(entries[part.run])


def forget_paths(folder: Path) -> None:
    """Blank the path in a configuration that diffusers loaded it from: it is nobody's news."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.get("_name_or_path"):
            atomic_write_text(path, json.dumps(config | {"_name_or_path": ""}, indent=2, sort_keys=True) + "\n")


def ship_adapter(run: Path, assets: Path, *, base_is_new: bool) -> dict[str, object]:
    """Copy a fine-tune's adapter into ``assets/adapters``; returns its entry of the MANIFEST, or nothing without one.

    Without a new one the adapter stays as it ships, unless the base model under it has just been replaced.
    """
    is_trained = (run / "adapter").is_dir()
    shipped = Part(run=TUNED, command=f"python -m vggrpo train --out RUNS/{TUNED}", source="adapter", target=ADAPTERS)
    if not is_trained and not base_is_new and (assets / ADAPTERS).is_dir():
        return {TUNED: _former_entry(shipped, assets)}
    shutil.rmtree(assets / ADAPTERS, ignore_errors=True)
    if not is_trained:
        return {}
    shutil.copytree(run / "adapter", assets / ADAPTERS / ADAPTER_NAME)
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluated = [row for row in rows if row["iteration"] and "eval/score" in row]
    state = json.loads(max((run / "checkpoints").glob("step-??????/state.json")).read_text(encoding="utf-8"))
    description: dict[str, object] = {
        "command": f"python -m vggrpo train --preset tiny --iterations {state['iteration']} --seed {settings['seed']} "
        f"--out RUNS/{TUNED}",
        "seed": settings["seed"],
        "data": "captions of the procedural world",
        "steps": state["iteration"],
        "seconds": round(state["seconds"], 1),
        "settings": settings,
        "held_out": {name: value for name, value in evaluated[-1].items() if name.startswith("eval/")}
        if evaluated
        else {},
    }
    notes = run / NOTES
    if notes.is_file():
        description["notes"] = notes.read_text(encoding="utf-8").strip()
    return {TUNED: description}


def measure_assets(assets: Path, *, clips: int = HELD_OUT_CLIPS) -> dict[str, object]:
    """Held-out numbers of each shipped part, from the very files that ship."""
    cache = ClipCache(folder=default_cache())
    vae = VideoVAE.load(assets / "tiny" / "vae", dtype=torch.float32, device=torch.device("cpu"))
    geometry = load_geometry("any4d", assets / "tiny-geometry")
    latent_geometry = LatentGeometryModel.load(assets / "tiny-lgm", foundation=geometry)
    latent_geometry.merge_lora()
    return {
        "vae": asdict(reconstruction_quality(vae, cache, clips=clips)),
        "video": held_out_loss(assets / "tiny", cache, clips=clips),
        "geometry": evaluate_geometry_model(geometry, (cache.clip(seed) for seed in range(clips))).to_json(),
        "lgm": evaluate_latent_geometry(latent_geometry, _held_out_pairs(cache, vae, clips=clips)).to_json(),
    }


@torch.no_grad()
def _held_out_pairs(cache: ClipCache, vae: VideoVAE, *, clips: int) -> Iterator[tuple[Latents, WorldClip]]:
    """Latents of held-out world clips with the clips themselves."""
    for seed in range(clips):
        clip = cache.clip(seed)
        yield vae.encode_normalised(video_from_frames(torch.from_numpy(clip.rgb)[None])), clip


def _describe(part: Part, runs: Path) -> dict[str, object]:
    """How a part was made, from its run folder."""
    folder = runs / part.run
    states = sorted((folder / "checkpoints").glob("step-??????/state.json"))
    if not states:
        raise UserError(f"{folder} has no checkpoint: run `{part.command}` to its end.")
    state = json.loads(states[-1].read_text())
    description: dict[str, object] = {
        "command": part.command,
        "seed": part.seed,
        "data": part.data,
        "steps": state["step"],
        "seconds": state["seconds"],
    }
    start = start_of(folder)
    if start is not None:
        alone = " --decoder-only" if _settings_of(folder).get("decoder_only") else ""
        description["command"] = f"{part.command} --start-from START{alone}"
        description["start"] = _describe_start(part, start)
    stitching = folder / STITCHING_NAME
    if stitching.is_file():
        description["stitching"] = json.loads(stitching.read_text())
    notes = folder / NOTES
    if notes.is_file():
        description["notes"] = notes.read_text().strip()
    return description


def start_of(run: Path) -> Path | None:
    """The finished weights that a run was told to train further."""
    start = _settings_of(run).get("start_from")
    return Path(str(start)) if start else None


def _settings_of(run: Path) -> dict[str, object]:
    """A run's settings as its command wrote them; nothing of a run that wrote none."""
    config = run / "config.yaml"
    return yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}


def _describe_start(part: Part, start: Path) -> object:
    """How the weights that a run began with were made: by an earlier run, or as the MANIFEST beside them says."""
    run = start.parent
    if (run / "checkpoints").is_dir():
        command = part.command.replace(f"--out RUNS/{part.run}", f"--out RUNS/{run.name}")
        return _describe(replace(part, run=run.name, command=command), run.parent)
    for folder in (start.parent, start.parent.parent):
        if (folder / MANIFEST).is_file():
            target = start.relative_to(folder).as_posix()
            # The run that began with them may have a name of its own; the MANIFEST goes by the parts' names.
            name = next((known.run for known in (*PARTS, *JUDGES) if known.target == target), part.run)
            return _former_entry(replace(part, run=name, target=target), folder)
    raise UserError(f"{start} is neither a run's result nor listed in a {MANIFEST}: nobody knows how it was made.")


def _hashes(assets: Path) -> dict[str, dict[str, object]]:
    """Every file of the shipped folders, relative to ``assets``."""
    roots = sorted({part.target.split("/", maxsplit=1)[0] for part in (*PARTS, *JUDGES)} | {ADAPTERS})
    paths = [path for root in roots for path in sorted((assets / root).rglob("*")) if path.is_file()]
    return {
        path.relative_to(assets).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths
    }
