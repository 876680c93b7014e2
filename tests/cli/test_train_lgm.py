"""``train-lgm`` from the command line, on small folders of the released kinds and on the debug preset.

Oracles: the files it must leave, what of the videos must be used and skipped, the same bits after a resume, and the
loader of every other command, which must take the exported model and refuse it for another VAE.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.real_models import WAN21, WAN22, write_geometry, write_wan21, write_wan22
from tests.worlds.real_videos import write_counting_video
from vggrpo.cli import lgm
from vggrpo.cli.commands import TrainLgm
from vggrpo.generation.models import LoadListener, load_models
from vggrpo.generation.options import LoadOptions
from vggrpo.grpo.defaults import training_defaults
from vggrpo.latent_geometry.foundation.registry import build_geometry, save_geometry
from vggrpo.presets import get_preset
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents

QUICK = ("--steps", 2, "--clips", 3, "--generated-clips", 2, "--generated-steps", 2, "--json")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Video models, geometry models, and a folder of videos of which two cannot be used."""
    root = tmp_path_factory.mktemp("folders")
    write_wan21(root / "wan21")
    write_wan22(root / "wan22")
    write_geometry(root / "any4d")
    save_geometry(build_geometry("vggt", random_seed=0, size="debug"), root / "vggt")
    for index in range(3):
        write_counting_video(root / "videos" / f"{index}.mp4", 20 + index, fps=16, height=80, width=100)
        (root / "videos" / f"{index}.txt").write_text(f"a grey room, the camera orbits left, number {index}")
    write_counting_video(root / "videos" / "short.mp4", 4, fps=16)
    (root / "videos" / "broken.mp4").write_bytes(b"\0" * 400)
    return root


def options_of(sizes: dict[str, object]) -> list[object]:
    return [word for name, value in sizes.items() for word in (f"--{name}", value)]


def train(run: Callable, folders: Path, out: Path, *words: object, sizes: dict[str, object] = WAN21) -> dict:
    model = "wan21" if sizes is WAN21 else "wan22"
    shown = run(
        *("train-lgm", *options_of(sizes), "--model-folder", folders / model, "--out", out),
        *("--videos", folders / "videos", "--cache", out.parent / "cache", *QUICK, *words),
    )
    assert shown.code == 0, shown.err
    return {"result": json.loads(shown.out.splitlines()[-1]), "err": shown.err}


def any4d(folders: Path) -> tuple[object, ...]:
    return ("--geometry", "any4d", "--geometry-weights", folders / "any4d")


@pytest.mark.parametrize("sizes", [WAN21, WAN22], ids=["wan2.1", "wan2.2"])
def test_from_videos_to_a_model_that_the_other_commands_load(
    run: Callable, folders: Path, tmp_path: Path, sizes: dict[str, object]
) -> None:
    out = tmp_path / "lgm"
    shown = train(run, folders, out, *any4d(folders), "--taught-frames", 3, sizes=sizes)
    result = shown["result"]
    assert result["finished"]
    assert result["steps_done"] == 2
    assert result["videos"]["clips"] == 3
    assert {one["video"] for one in result["videos"]["first_skipped"]} <= {"short.mp4", "broken.mp4"}
    for words in ("on disk: at most", "stitching search: at most", "Any4D: code", "3 clips of 3 videos (folder)"):
        assert words in " ".join(shown["err"].split()), shown["err"]
    listed = json.loads((out / "videos.json").read_text())
    assert {one["video"] for one in listed["clips"]} == {"0.mp4", "1.mp4", "2.mp4"}
    assert listed["clips"][0]["caption"].startswith("a grey room")
    record = json.loads((out / "model" / "trained_on.json").read_text())
    assert (record["preset"], record["geometry"]) == (sizes["preset"], "any4d")
    assert (record["world_clips"], record["generated_clips"]) == (3, 2)

    preset = get_preset(sizes["preset"]).sized(**{name: sizes[name] for name in ("height", "width", "frames")})
    model_folder = folders / ("wan21" if sizes is WAN21 else "wan22")
    given = LoadOptions(
        model_folder=model_folder, geometry_weights=folders / "any4d", latent_geometry=out / "model", offline=True
    )
    models = load_models(preset, given)
    with torch.no_grad():
        scene = models.latent_geometry(Latents(tensor=torch.zeros(1, *preset.latent_shape)))
    assert scene.depth.shape == (1, 9, 56, 84)
    assert not models.vae.is_loaded
    if sizes is WAN21:
        assert_it_says_what_it_was_not_trained_on(folders, out / "model", tmp_path)


def assert_it_says_what_it_was_not_trained_on(folders: Path, exported: Path, tmp_path: Path) -> None:
    """Another VAE of the same shape is refused, unless it encodes alike; other sizes are remarked on."""
    other = tmp_path / "other-wan"
    shutil.copytree(folders / "wan21", other)
    vae = next((other / "vae").glob("*.safetensors"))
    weights = load_file(vae)
    save_file({name: 1.5 * tensor for name, tensor in weights.items()}, vae, {"format": "pt"})
    options = {"geometry_weights": folders / "any4d", "latent_geometry": exported}
    preset = get_preset(WAN21["preset"]).sized(height=64, width=96, frames=9)
    with pytest.raises(UserError, match="latents of another video VAE"):
        _ = load_models(preset, LoadOptions(model_folder=other, **options)).latent_geometry
    decodes = {name for name in weights if name.startswith(("decoder.", "post_quant_conv."))}
    save_file({name: (1.5 if name in decodes else 1.0) * one for name, one in weights.items()}, vae, {"format": "pt"})
    _ = load_models(preset, LoadOptions(model_folder=other, **options)).latent_geometry
    lines: list[str] = []
    larger = preset.sized(height=96, width=96, frames=5)
    models = load_models(
        larger, LoadOptions(model_folder=folders / "wan21", **options), listener=LoadListener(line=lines.append)
    )
    _ = models.latent_geometry
    assert any("trained on 9 frames of 96×64" in line and "5 of 96×96" in line for line in lines), lines


def test_vggt_stands_under_phi_g(run: Callable, folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "lgm"
    train(run, folders, out, "--geometry", "vggt", "--geometry-weights", folders / "vggt", "--generated-clips", 0)
    record = json.loads((out / "model" / "trained_on.json").read_text())
    assert (record["geometry"], record["generated_clips"]) == ("vggt", 0)


def test_a_run_killed_while_it_prepares_goes_on_to_the_same_bits(
    run: Callable, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM in the middle of the readings: one line, exit code 143; then the same command again."""
    straight, killed = tmp_path / "a" / "lgm", tmp_path / "b" / "lgm"
    less = ("--taught-frames", 2, "--clips", 2, "--generated-clips", 1, "--steps", 1)
    train(run, folders, straight, *any4d(folders), *less)
    calls = []
    from vggrpo.pretraining import reading_cache

    pack = reading_cache.pack_lesson

    def stopping(lesson: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return pack(lesson)

    words = ("train-lgm", *options_of(WAN21), "--model-folder", folders / "wan21", "--out", killed, *any4d(folders))
    words += ("--videos", folders / "videos", "--cache", killed.parent / "cache", *QUICK, *less)
    with monkeypatch.context() as patch:
        patch.setattr(reading_cache, "pack_lesson", stopping)
        shown = run(*words)
    assert shown.code == 143
    assert shown.err.splitlines()[-1].startswith("stopped before the first step: what was prepared is kept")
    made = {path: path.stat().st_mtime_ns for path in killed.parent.rglob("*.safetensors")}
    assert len(made) == 2 + 1 + 1, "latents, a generated clip, and the reading before the signal"
    assert run(*words).code == 0
    assert all(path.stat().st_mtime_ns == time for path, time in made.items())
    name = Path("model") / "latent_geometry.safetensors"
    assert (killed / name).read_bytes() == (straight / name).read_bytes()


def test_sigterm_while_models_load_is_one_line(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vggrpo.generation.models.load_models", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    shown = run("train-lgm", "--preset", "tiny-debug", "--out", tmp_path / "lgm")
    assert shown.code == 143
    assert shown.err == "stopped before the first step: what was prepared is kept; run the same command again.\n"
    assert list(tmp_path.iterdir()) == []


def test_out_of_memory_names_what_to_lower(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("vggrpo.latent_geometry.train.train_lgm", full)
    quick = ("--cache", tmp_path / "cache", *QUICK, "--generated-clips", 0)
    shown = run("train-lgm", "--preset", "tiny-debug", "--out", tmp_path / "lgm", *quick)
    assert shown.code == 2
    assert "out of memory at 9 frames of 64×64: give fewer --frames" in shown.err.splitlines()[-1]


def test_clips_have_the_size_that_train_draws_at() -> None:
    """A Φ_g that is trained without a word about sizes reads what a fine-tune without a word about them makes."""
    for name in ("wan2.1-t2v-1.3b", "wan2.2-ti2v-5b"):
        settings, preset = training_defaults(name), get_preset(name)
        sized = lgm._sized_preset(TrainLgm(preset=name))
        expected = (settings.height or preset.height, settings.width or preset.width, settings.frames)
        assert (sized.height, sized.width, sized.num_frames) == expected
        assert sized.num_frames < preset.num_frames
        assert lgm._sized_preset(TrainLgm(preset=name, frames=9)).num_frames == 9


def test_the_debug_preset_trains_on_its_world_and_on_videos_by_the_same_route(
    run: Callable, folders: Path, tmp_path: Path
) -> None:
    common = ("--preset", "tiny-debug", "--cache", tmp_path / "cache", *QUICK)
    shown = run("train-lgm", "--out", tmp_path / "world", *common)
    assert shown.code == 0, shown.err
    assert "videos" not in json.loads(shown.out.splitlines()[-1])
    shown = run("train-lgm", "--out", tmp_path / "filmed", "--videos", folders / "videos", *common)
    assert shown.code == 0, shown.err
    assert json.loads(shown.out.splitlines()[-1])["videos"]["clips"] == 3
    again = run("train-lgm", "--out", tmp_path / "world", *common)
    assert "already holds a training run" in again.complaint
    resumed = run("train-lgm", "--out", tmp_path / "world", "--resume", *common)
    assert resumed.code == 0, resumed.err
    other = run("train-lgm", "--out", tmp_path / "world", "--resume", *any_other_preset(folders, tmp_path))
    assert other.code == 2
    assert "was begun with another preset and another video VAE" in other.err


def any_other_preset(folders: Path, tmp_path: Path) -> tuple[object, ...]:
    words = (*options_of(WAN21), "--model-folder", folders / "wan21", "--videos", folders / "videos")
    return (*words, *any4d(folders), "--cache", tmp_path / "cache", *QUICK)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--generated-clips", 0), "has no clips to align on"),
        (("--geometry", "any5d"), "'any5d': did you mean 'any4d'"),
        (("--geometry", "no/where"), "no/where does not exist"),
        (("--videos", "nowhere"), "nowhere is no folder"),
        (("--captions", "table.csv"), "--captions and --layout describe the folder of --videos"),
        (("--clips", 0), "at least one clip"),
        (("--taught-frames", -1), "-1 taught frames"),
        (("--frames", 10), "4 n + 1"),
        (("--generated-clips", 3), "give --prompts FILE"),
        (("--generated-clips", 3, "--prompts", "none.txt"), "none.txt does not exist"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = run("train-lgm", "--preset", "wan2.1-t2v-1.3b", *words)
    assert complaint in shown.complaint
    assert list(tmp_path.iterdir()) == []


def test_caches_that_would_be_too_large_are_refused_with_their_size(
    run: Callable, folders: Path, tmp_path: Path
) -> None:
    words = ("--out", tmp_path / "lgm", "--cache", tmp_path / "cache", "--cache-gib", 0.001, "--clips", 10_000)
    shown = run("train-lgm", *any_other_preset(folders, tmp_path)[: -len(QUICK) - 2], *words, "--taught-frames", 4)
    assert shown.code == 2
    assert "GiB on disk, --cache-gib allows 0.001" in shown.err
    assert list(tmp_path.iterdir()) == []
