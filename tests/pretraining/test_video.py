"""``pretrain video``. Oracles: latents whose velocity is known in closed form (the loss must vanish), counted prompts,
diffusers' own pipeline on the exported folder, and an uninterrupted run beside a stopped and resumed one.
"""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from PIL import Image
from torch import Tensor
from transformers import UMT5EncoderModel

from tests.policy.closed_form import SIZES, OnePoint
from vggrpo.latents import VideoVAE
from vggrpo.policy.backbone import TextConditioner, load_transformer
from vggrpo.pretraining import video as pretraining
from vggrpo.pretraining.data import ClipCache
from vggrpo.pretraining.latent_cache import LatentClips
from vggrpo.pretraining.text import build_tokenizer
from vggrpo.pretraining.vae import VaeArchitecture
from vggrpo.pretraining.video import VideoArchitecture, VideoTraining, pretrain_video, video_losses
from vggrpo.runtime.device import choose_dtype
from vggrpo.runtime.training import LoopConfig, Step
from vggrpo.worlds import sample_scene

ARCHITECTURE = VideoArchitecture(
    num_attention_heads=2, attention_head_dim=16, num_layers=1, ffn_dim=32, text_dim=32, text_layers=1
)
TOKENIZER = build_tokenizer(ARCHITECTURE.max_tokens)
ENCODER = ARCHITECTURE.build_text_encoder(TOKENIZER)
LOOP = LoopConfig(steps=4, learning_rate=1e-3, warmup_steps=1, ema_decay=0.9, checkpoint_every=2, sample_every=2)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> VideoTraining:
    """Debug sizes, with a VAE of random weights."""
    torch.manual_seed(0)
    vae = tmp_path_factory.mktemp("vae")
    VaeArchitecture(base_dim=8, decoder_base_dim=8).build().save_pretrained(vae)
    return VideoTraining(
        vae=vae,
        architecture=ARCHITECTURE,
        loop=LOOP,
        clips=2,
        batch=4,
        images=3,
        image_batch=4,
        num_frames=9,
        size=64,
        sampling_steps=2,
    )


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def closed_form_losses(config: VideoTraining, model: OnePoint, index: int) -> dict[str, Tensor]:
    data = LatentClips(latents=torch.full((4, 2, 3, 4, 4), 0.7), captions=("a", "red", "blue", "cube"))
    step = Step.of(index, config.loop)
    return video_losses(model, ENCODER, TOKENIZER, data, config=config, step=step)


def test_the_loss_of_the_true_velocity_is_zero(config: VideoTraining) -> None:
    """All latents are 0.7, so v(x, t) = (x − 0.7) / t is exact; the formula is NaN on a clean frame, which must not
    count.
    """
    model = OnePoint(**SIZES)
    kinds = set()
    for index in range(12):
        losses = closed_form_losses(replace(config, first_frame_share=0.5), model, index)
        assert losses["loss"].item() < 1e-5
        kinds |= losses.keys() - {"loss"}
        given = "loss/first_frame_given" in losses
        seen, timesteps = model.latents[-1], model.seen[-1]
        assert bool((seen[:, :, 0] == 0.7).all()) == given
        assert not (seen[:, :, 1:] == 0.7).any()
        assert timesteps.shape == ((4, 12) if given else (4,))
    assert kinds == {"loss/first_frame_given", "loss/text_only"}


def test_noise_fractions_are_spread_evenly_over_a_batch(config: VideoTraining) -> None:
    """Undo the shift: a quarter between neighbours in a batch of four, wherever the first one falls."""
    model = OnePoint(**SIZES)
    closed_form_losses(replace(config, first_frame_share=0.0), model, 0)
    t = model.seen[-1].double() / 1000
    u = torch.sort(t / (config.shift - (config.shift - 1) * t)).values
    torch.testing.assert_close(u.diff(), torch.full((3,), 0.25, dtype=torch.float64), rtol=0, atol=1e-5)


def test_prompts_are_dropped_and_first_frames_given_at_their_share(
    config: VideoTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted over 300 steps: four standard deviations of the binomial are allowed."""
    prompts: list[str] = []

    def no_text(_tokenizer: object, _encoder: object, batch: list[str], *, max_tokens: int) -> Tensor:
        prompts.extend(batch)
        return torch.zeros(len(batch), 1, 32)

    monkeypatch.setattr(pretraining, "encode_text", no_text)
    model = OnePoint(**SIZES)
    shares = replace(config, drop_prompt=0.25, first_frame_share=0.4, loop=replace(LOOP, steps=300))
    given = sum("loss/first_frame_given" in closed_form_losses(shares, model, index) for index in range(300))
    dropped = sum(prompt == "" for prompt in prompts)
    assert abs(dropped - 0.25 * 1200) < 4 * (1200 * 0.25 * 0.75) ** 0.5
    assert abs(given - 0.4 * 300) < 4 * (300 * 0.4 * 0.6) ** 0.5
    assert set(prompts) == {"", "a", "red", "blue", "cube"}


def test_single_frames_are_learnt_at_a_share_that_moves_with_the_run(config: VideoTraining) -> None:
    """All steps at the beginning, none at the end; their batch is wider, of one latent frame, with its own captions."""
    shares = replace(config, image_steps=(1.0, 0.0), image_batch=7, loop=replace(LOOP, steps=400))
    clips = LatentClips(latents=torch.full((4, 2, 3, 4, 4), 0.7), captions=("a", "red", "blue", "cube"))
    frames = LatentClips(latents=torch.full((3, 2, 1, 4, 4), 0.7), captions=("grey", "floor", "sphere"))
    model = OnePoint(**SIZES)
    single = []
    for index in range(400):
        step = Step.of(index, shares.loop)
        losses = video_losses(model, ENCODER, TOKENIZER, clips, config=shares, step=step, images=frames)
        single.append("loss/single_frames" in losses)
        assert losses["loss"].item() < 1e-5
        assert model.latents[-1].shape[:3] == ((7, 2, 1) if single[-1] else (4, 2, 3))
    early, late = sum(single[:200]), sum(single[200:])
    # 150 and 50 are expected, with a standard deviation of 6.
    assert abs(early - 150) < 24
    assert abs(late - 50) < 24


def train(
    config: VideoTraining, out: Path, monkeypatch: pytest.MonkeyPatch, *, stop_at: int = -1, resume: bool = False
) -> bool:
    """Run ``pretrain_video``; at step ``stop_at`` the process is asked to end, as a scheduler would."""

    def losses(*args: object, step: Step, **kwargs: object) -> dict[str, Tensor]:
        if step.index == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return video_losses(*args, step=step, **kwargs)

    monkeypatch.setattr(pretraining, "video_losses", losses)
    return pretrain_video(config, out, resume=resume).finished


def state(out: Path) -> bytes:
    return (out / "checkpoints" / "step-000004" / "state.safetensors").read_bytes()


def losses_logged(out: Path) -> list[object]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def finished(
    config: VideoTraining, cache_folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A finished training, made once."""
    monkeypatch.setenv("VGGRPO_CACHE", str(cache_folder))
    out = cache_folder / "finished"
    if not out.exists():
        assert train(config, out, monkeypatch)
    return out


def test_blocks_are_compiled_where_it_is_asked_for(
    config: VideoTraining, cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked, not done: the type checks of the tests cannot be traced. Shapes are taken as they are."""
    monkeypatch.setenv("VGGRPO_CACHE", str(cache_folder))
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(
        WanTransformer3DModel, "compile_repeated_blocks", lambda _self, **options: asked.append(options)
    )
    short = replace(config, loop=replace(LOOP, steps=1, sample_every=0))
    assert train(short, tmp_path / "plain", monkeypatch)
    assert not asked
    assert train(replace(short, compile=True), tmp_path / "compiled", monkeypatch)
    assert asked == [{"dynamic": False}]


def test_stopped_and_resumed_equals_straight_through(
    config: VideoTraining, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The straight run also drew samples with the averaged weights, the resumed one drew none."""
    silent = replace(config, loop=replace(LOOP, sample_every=0))
    assert not train(silent, tmp_path, monkeypatch, stop_at=1)
    assert not (tmp_path / "pipeline").exists()
    assert train(silent, tmp_path, monkeypatch, resume=True)
    assert state(tmp_path) == state(finished)
    assert losses_logged(tmp_path) == losses_logged(finished)
    for weights in (finished / "pipeline").rglob("*.safetensors"):
        assert weights.read_bytes() == (tmp_path / weights.relative_to(finished)).read_bytes()


def test_samples_show_held_out_captions(finished: Path) -> None:
    assert Image.open(finished / "samples" / "step-000004.png").size == (3 * 64, 6 * 64)
    lines = (finished / "samples" / "step-000004.txt").read_text().splitlines()
    assert lines == [sample_scene(seed).caption for seed in range(6)]


def test_the_stock_pipeline_loads_what_was_trained(finished: Path, config: VideoTraining) -> None:
    folder = finished / "pipeline"
    pipeline = WanPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.config.expand_timesteps
    assert pipeline.scheduler.config.shift == config.shift
    video = pipeline("a red cube", height=64, width=64, num_frames=9, num_inference_steps=2, output_type="pt").frames
    assert video.shape == (1, 9, 3, 64, 64)
    assert torch.isfinite(video).all()

    ours = load_transformer(folder, dtype=torch.float32, device=torch.device("cpu"))
    for name, tensor in pipeline.transformer.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name])
    text = TextConditioner.load(folder, dtype=torch.float32, device=torch.device("cpu"), max_tokens=64)
    embedded, _ = pipeline.encode_prompt("a red cube", do_classifier_free_guidance=False, max_sequence_length=64)
    torch.testing.assert_close(text.embed("a red cube"), embedded)
    VideoVAE.load(folder / "vae", dtype=torch.float32, device=torch.device("cpu"))
    assert max(path.stat().st_size for path in folder.rglob("*")) < 9_000_000


def test_the_cache_was_used(finished: Path, cache_folder: Path) -> None:
    """$VGGRPO_CACHE holds the clips and their latents; the home folder is left alone."""
    names = {path.name.split("-")[0] for path in cache_folder.iterdir()} - {"finished"}
    assert names == {"clips", "latents"}
    assert ClipCache(folder=cache_folder, num_frames=9, size=64).rgb(1_000_000).shape == (9, 64, 64, 3)


def test_a_finished_pipeline_is_trained_further(config: VideoTraining, finished: Path) -> None:
    """Its first loss is that of the exported models, which a fresh start would miss."""
    pipeline = finished / "pipeline"
    data = LatentClips(latents=torch.randn(4, 16, 3, 8, 8), captions=("a red cube", "", "a blue cone", "a floor"))

    def loss(config: VideoTraining) -> float:
        transformer, encoder = config.build_models(TOKENIZER)
        assert all(weight.requires_grad for weight in (*transformer.parameters(), *encoder.parameters()))
        return float(
            video_losses(transformer, encoder, TOKENIZER, data, config=config, step=Step.of(0, LOOP))["loss"].detach()
        )

    transformer = load_transformer(pipeline, dtype=choose_dtype(torch.device("cpu")), device=torch.device("cpu"))
    encoder = UMT5EncoderModel.from_pretrained(pipeline / "text_encoder", dtype=torch.float32)
    expected = video_losses(transformer, encoder, TOKENIZER, data, config=config, step=Step.of(0, LOOP))["loss"]
    further = config.going_on(pipeline)
    assert loss(further) == float(expected.detach())
    assert further.loop.learning_rate < config.loop.learning_rate
    assert loss(config) != float(expected.detach())
