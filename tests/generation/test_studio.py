"""From a prompt to a run folder. Oracles: the same request twice, the parts called by hand, the bytes on disk."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vggrpo.generation import GenerateRequest, Progress, Studio
from vggrpo.generation.models import DEBUG_VIDEO
from vggrpo.generation.request import PHASES
from vggrpo.latents import video_from_frames
from vggrpo.policy.sampling import Conditions, draw_noise, sample_ode
from vggrpo.pretraining.video import VideoArchitecture
from vggrpo.rewards import judge
from vggrpo.runtime.errors import Cancelled, UserError
from vggrpo.types import ClipGeometry, Latents

PROMPT = "a red sphere on a grey tiled floor, the camera orbits left"
REQUEST = GenerateRequest(prompt=PROMPT, preset="tiny-debug", seed=3)


@pytest.fixture(scope="session")
def run(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    studio.generate(REQUEST, out)
    return out


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_timings(files: dict[str, bytes]) -> dict[str, object]:
    manifest = json.loads(files["manifest.json"])
    del manifest["timings"]
    return {**files, "manifest.json": manifest}


def test_a_run_holds_what_its_manifest_lists(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    assert sorted(manifest["files"]) == sorted(path.name for path in run.iterdir())
    contract = {"video.mp4", "latents.safetensors", "geometry.npz", "rewards.json", "scene.viser", "manifest.json"}
    assert contract <= set(manifest["files"])
    assert (manifest["prompt"], manifest["seed"], manifest["preset"]) == (PROMPT, 3, "tiny-debug")
    assert (manifest["steps"], manifest["guidance"]) == (2, 2.0)  # the preset's
    assert manifest["reward_guidance"] is None
    assert set(PHASES) == set(manifest["timings"])


def test_the_same_request_leaves_the_same_bytes(studio: Studio, run: Path, tmp_path: Path) -> None:
    studio.generate(REQUEST, tmp_path / "again")
    assert without_timings(tree(run)) == without_timings(tree(tmp_path / "again"))


def test_a_new_studio_leaves_the_same_latents(studio: Studio) -> None:
    again = Studio.load("tiny-debug").denoise(REQUEST).tensor
    assert torch.equal(again, studio.denoise(REQUEST).tensor)


@pytest.mark.parametrize(
    "other",
    [{"seed": 4}, {"prompt": "a blue cube on a teal striped floor"}, {"steps": 3}, {"guidance": 5.0}],
    ids=["seed", "prompt", "steps", "guidance"],
)
def test_everything_that_is_asked_for_matters(studio: Studio, run: Path, other: dict[str, object]) -> None:
    latents = load_file(run / "latents.safetensors")["latents"]
    changed = studio.denoise(replace(REQUEST, **other)).tensor
    assert not torch.allclose(changed.reshape(-1), latents.float().reshape(-1), atol=1e-4)


def test_the_files_are_what_the_parts_compute(studio: Studio, run: Path) -> None:
    """Second route: text, noise, sampler, Φ_g and rewards called one by one."""
    embed = studio.models.text.embed
    conditions = Conditions(text=embed(PROMPT), negative=embed(""), guidance=2.0)
    noise = draw_noise((1, 16, 3, 8, 8), seed=3, device=torch.device("cpu"))
    latents = sample_ode(studio.models.transformer, noise, conditions, steps=2, shift=3.0)
    stored = load_file(run / "latents.safetensors")["latents"]
    torch.testing.assert_close(stored.float().reshape(latents.tensor.shape), latents.tensor)
    scene = studio.geometry_from_latents(latents)
    expected = ClipGeometry.from_scene(scene)
    with np.load(run / "geometry.npz") as arrays:
        for name in ("camera_from_world", "intrinsics", "depth", "points", "scene_flow", "confidence", "valid"):
            np.testing.assert_array_equal(arrays[name], getattr(expected, name))
    assert json.loads((run / "rewards.json").read_text()) == json.loads(json.dumps(judge(scene).to_json()))


def test_progress_goes_through_the_phases_in_order(studio: Studio, tmp_path: Path) -> None:
    seen: list[Progress] = []
    studio.generate(replace(REQUEST, steps=3), tmp_path / "run", on_progress=seen.append)
    order = list(dict.fromkeys(report.phase for report in seen))
    assert order == [phase for phase in PHASES if phase != "load"]
    places = [PHASES.index(report.phase) for report in seen]
    assert places == sorted(places)
    assert [(report.done, report.total) for report in seen if report.phase == "denoise"] == [
        (done, 3) for done in range(4)
    ]
    for report in seen:
        assert 0 <= report.done <= report.total
        assert report.seconds_left is None or report.seconds_left >= 0


@pytest.mark.parametrize("phase", PHASES[1:])
def test_cancelling_before_any_phase_leaves_nothing(studio: Studio, tmp_path: Path, phase: str) -> None:
    before = PHASES[1 : PHASES.index(phase)]
    reached: dict[str, int] = {}

    def count(report: Progress) -> None:
        reached[report.phase] = report.done

    with pytest.raises(Cancelled):
        studio.generate(
            REQUEST, tmp_path / "runs" / "run", on_progress=count, should_stop=lambda: len(reached) == len(before)
        )
    assert tuple(reached) == before
    assert list(tmp_path.iterdir()) == []


def test_cancelling_between_two_denoising_steps(studio: Studio, run: Path, tmp_path: Path) -> None:
    """An earlier run of the same name stays as it was."""
    out = tmp_path / "run"
    studio.generate(REQUEST, out)
    before = tree(out)
    steps: list[int] = []
    with pytest.raises(Cancelled):
        studio.generate(
            replace(REQUEST, steps=9),
            out,
            on_progress=lambda report: steps.append(report.done) if report.phase == "denoise" else None,
            should_stop=lambda: bool(steps) and steps[-1] == 4,
        )
    assert steps[-1] == 4
    assert tree(tmp_path / "run") == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_prompt_of_too_many_tokens_is_refused_and_leaves_nothing(studio: Studio, tmp_path: Path) -> None:
    longest = " ".join(["red"] * 63)
    studio.denoise(replace(REQUEST, prompt=longest))
    with pytest.raises(UserError, match="has 65 tokens; tiny-debug reads at most 64"):
        studio.generate(replace(REQUEST, prompt=f"{longest} red"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_written_are_named_before_any_work(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    worked: list[Progress] = []
    with pytest.raises(UserError, match="is a file; choose another"):
        studio.generate(REQUEST, tmp_path / "file" / "run", on_progress=worked.append)
    assert worked == []


def test_words_that_the_model_does_not_know_are_named(studio: Studio) -> None:
    assert studio.unknown_words("a Red elephant on a grey tiled floor with elephants") == [
        "elephant",
        "with",
        "elephants",
    ]


def test_a_first_frame_is_the_first_latent_frame(studio: Studio, tmp_path: Path) -> None:
    """To the bit: it is encoded, given clean to every step, and never touched."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "frame.png")
    latents = studio.denoise(replace(REQUEST, first_frame=tmp_path / "frame.png")).tensor
    expected = studio.vae.encode_normalised(video_from_frames(torch.from_numpy(pixels)[None, None])).tensor
    assert torch.equal(latents[:, :, :1], expected)
    assert not torch.allclose(latents[:, :, 1:], studio.denoise(REQUEST).tensor[:, :, 1:])


def test_a_damaged_first_frame_is_refused_and_leaves_nothing(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "frame.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    with pytest.raises(UserError, match=r"frame\.png cannot be read as an image"):
        studio.generate(replace(REQUEST, first_frame=tmp_path / "frame.png"), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["frame.png"]


def test_an_adapter_changes_the_video_and_leaves_no_trace(studio: Studio, make_lora: Callable[..., Path]) -> None:
    base = studio.denoise(REQUEST).tensor
    folder = make_lora()
    (file,) = folder.iterdir()
    tuned = studio.denoise(replace(REQUEST, adapter=folder)).tensor
    assert (tuned - base).abs().mean() > 1e-3
    assert torch.equal(studio.denoise(replace(REQUEST, adapter=file)).tensor, tuned)
    assert torch.equal(studio.denoise(REQUEST).tensor, base)


def test_an_adapter_adds_its_low_rank_product(studio: Studio, make_lora: Callable[..., Path]) -> None:
    """Second route: W + (α / r) B A written into a copy of the weights by hand; α = 8, r = 4."""
    folder = make_lora()
    tensors = load_file(next(folder.iterdir()))
    tuned = studio.denoise(replace(REQUEST, adapter=folder)).tensor
    merged = Studio.load("tiny-debug")
    weights = dict(merged.models.transformer.named_parameters())
    for name, a in tensors.items():
        if "lora_A" in name:
            product = tensors[name.replace("lora_A", "lora_B")] @ a
            layer = name.removeprefix("transformer.").removesuffix(".lora_A.weight")
            weights[f"{layer}.weight"].data += 2.0 * product
    torch.testing.assert_close(merged.denoise(REQUEST).tensor, tuned, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (replace(DEBUG_VIDEO, attention_head_dim=32), "maps 32 to 32 features, the LoRA's 64 to 64"),
        (replace(DEBUG_VIDEO, num_layers=3), r"no layer blocks\.2\."),
        (replace(DEBUG_VIDEO, text_dim=48), None),
    ],
    ids=["wider", "deeper", "other text"],
)
def test_a_lora_of_another_model_is_refused(
    studio: Studio, make_lora: Callable[..., Path], architecture: VideoArchitecture, message: str | None
) -> None:
    """Text is projected to the model's width before attention, so a LoRA does not depend on ``text_dim``."""
    base = studio.denoise(REQUEST).tensor
    request = replace(REQUEST, adapter=make_lora(architecture))
    if message is None:
        studio.denoise(request)
    else:
        with pytest.raises(UserError, match=message) as caught:
            studio.denoise(request)
        assert "\n" not in str(caught.value)
    assert torch.equal(studio.denoise(REQUEST).tensor, base)


@pytest.mark.parametrize("kind", ["text", "text named safetensors", "truncated", "other tensors", "empty folder"])
def test_what_is_no_lora_is_refused(studio: Studio, make_lora: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    from safetensors.torch import save_file

    base = studio.denoise(REQUEST).tensor
    path = tmp_path / ("adapter.txt" if kind == "text" else "adapter.safetensors")
    if kind.startswith("text"):
        path.write_text("a red cube")
    elif kind == "truncated":
        path.write_bytes(next(make_lora().iterdir()).read_bytes()[:-100])
    elif kind == "other tensors":
        save_file({"weight": torch.zeros(2)}, path)
    else:
        path.mkdir()
    with pytest.raises(UserError, match="adapter") as caught:
        studio.generate(replace(REQUEST, adapter=path), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert torch.equal(studio.denoise(REQUEST).tensor, base)


def test_geometry_of_video_and_of_latents_have_the_same_form(studio: Studio) -> None:
    video = torch.rand(1, 3, 9, 64, 64) * 2 - 1
    of_video = studio.geometry_from_video(video)
    of_latents = studio.geometry_from_latents(Latents(tensor=torch.randn(1, *studio.latent_shape)))
    assert of_video.depth.shape == of_latents.depth.shape == (1, 9, 64, 64)
    # Images go to Φ in [0, 1], frames first.
    images = (video.transpose(1, 2) + 1) / 2
    torch.testing.assert_close(of_video.depth, studio.models.geometry.geometry(images).depth)


def test_an_unknown_preset_is_not_loaded() -> None:
    with pytest.raises(UserError, match="did you mean 'tiny-debug'"):
        Studio.load("tiny-debugg")
