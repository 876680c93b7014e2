"""A preset's models in memory, and the whole way from a prompt to a run folder."""

import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vggrpo import __version__
from vggrpo.generation.first_frame import first_frame_latents
from vggrpo.generation.guidance import Denoised, GuidanceComparison, guiding_reward
from vggrpo.generation.models import LoadListener, Models, load_models
from vggrpo.generation.options import LoadOptions, VideoSize
from vggrpo.generation.request import PHASES, GenerateRequest, Progress, RewardSpaceName
from vggrpo.latents import VideoVAE, frames_from_video
from vggrpo.policy.adapter import load_adapter, remove_adapter
from vggrpo.policy.guidance import GuidedSample, RewardGuidance, RewardGuide, sample_guided
from vggrpo.policy.sampling import Conditions, draw_noise
from vggrpo.presets import Preset, get_preset
from vggrpo.rewards import RewardReport, judge
from vggrpo.runtime import run_folder
from vggrpo.runtime.device import set_threads
from vggrpo.runtime.errors import Cancelled, UserError
from vggrpo.runtime.files import atomic_folder, require_writable
from vggrpo.runtime.run_folder import RunFolder
from vggrpo.types import ClipGeometry, Latents, SceneGeometry
from vggrpo.worlds import vocabulary

OnProgress = Callable[[Progress], None]
OnStep = Callable[[int, int], None]
ShouldStop = Callable[[], bool]

_UNGUIDED = RewardGuidance(scale=0.0)

# Shares of a warm run's time by phase, measured by `bench generate`; only the first estimate uses them.
_TYPICAL_SECONDS = {"text": 0.05, "denoise": 3.0, "decode": 0.6, "geometry": 0.4, "rewards": 0.7, "recording": 0.5}


@dataclass
class _Clock:
    """Times the phases of one run, reports progress and hears Cancel between any two steps."""

    on_progress: OnProgress
    should_stop: ShouldStop
    typical: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)
    _phase: str = ""
    _began: float = 0.0

    def enter(self, phase: str, *, total: int = 1) -> None:
        """Close the last phase and open the next one."""
        self.close()
        self._phase = phase
        self._began = time.perf_counter()
        self.report(0, total)

    def report(self, done: int, total: int) -> None:
        """Report a step; raises Cancelled if the user asked to stop."""
        if self.should_stop():
            raise Cancelled
        elapsed = time.perf_counter() - self._began
        here = elapsed * (total - done) / done if done else max(self.typical.get(self._phase, 0.0) - elapsed, 0.0)
        later = sum(self.typical.get(phase, 0.0) for phase in PHASES[PHASES.index(self._phase) + 1 :])
        self.on_progress(Progress(phase=self._phase, done=done, total=total, seconds_left=here + later))

    def close(self) -> None:
        """Note how long the open phase took."""
        if self._phase:
            self.seconds[self._phase] = round(time.perf_counter() - self._began, 3)


def _ignore_progress(_progress: Progress) -> None:
    """For callers that show none."""


def _never_stop() -> bool:
    """For callers that cannot be cancelled."""
    return False


class Studio:
    """The models of one preset. Not thread-safe: callers run one job at a time."""

    def __init__(self, preset: Preset, models: Models, *, load_seconds: float) -> None:
        """Use ``Studio.load``."""
        self.preset = preset
        self.models = models
        self.load_seconds = load_seconds
        # Of the released models nobody knows the times before the first run.
        self._typical = {} if preset.is_released_model else dict(_TYPICAL_SECONDS)

    @classmethod
    def load(
        cls,
        preset: str,
        options: LoadOptions | None = None,
        *,
        size: VideoSize | None = None,
        listener: LoadListener | None = None,
    ) -> "Studio":
        """Load a preset by name, for videos of its own size or another.

        Raises:
            UserError: the preset is unknown, cannot draw that size, or its weights are missing, damaged or another
                model's.
        """
        size = size or VideoSize()
        chosen = get_preset(preset).sized(height=size.height, width=size.width, frames=size.frames)
        set_threads("interactive")
        began = time.perf_counter()
        models = load_models(chosen, options, listener=listener)
        return cls(chosen, models, load_seconds=round(time.perf_counter() - began, 3))

    @property
    def vae(self) -> VideoVAE:
        """The preset's video VAE."""
        return self.models.vae

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """[C, T, h, w] of one video's latents."""
        return self.preset.latent_shape

    def unknown_words(self, prompt: str) -> list[str]:
        """Words that the model has never seen; none where the vocabulary is open."""
        return vocabulary.unknown_words(prompt) if self.preset.closed_vocabulary else []

    @torch.no_grad()
    def geometry_from_latents(self, latents: Latents) -> SceneGeometry:
        """Φ_g(z): no video is decoded."""
        return self.models.latent_geometry(latents)

    @torch.no_grad()
    def geometry_from_video(self, video: Float[Tensor, "B 3 N H W"]) -> SceneGeometry:
        """Φ(x) for video in [-1, 1]."""
        return self.models.geometry_of_video(video)

    def _differentiable_geometry(self, latents: Latents) -> SceneGeometry:
        """Φ_g(z) with its graph. Φ_g is touched by the call only: a released preset may have none."""
        return self.models.latent_geometry(latents)

    def read_geometry(self, latents: Latents, *, reward_space: RewardSpaceName) -> SceneGeometry:
        """Geometry of latents, by Φ_g or by way of decoded video and Φ."""
        if reward_space == "latent":
            return self.geometry_from_latents(latents)
        return self.geometry_from_video(self._decode(latents))

    def require_fitting(self, adapter: Path) -> None:
        """Raise a UserError for an adapter that cannot go on this video model; nothing is left on it."""
        load_adapter(self.models.transformer, adapter)
        remove_adapter(self.models.transformer)

    def prepare_text(self, prompts: Iterable[str]) -> None:
        """Embed prompts, all at once: a large text encoder then comes and goes once.

        Raises:
            UserError: a prompt is too long or wholly unknown; then none is embedded.
        """
        known = [self._known(prompt) for prompt in prompts]
        self.models.text.prepare([*known, self.preset.negative_prompt])

    def conditions(self, request: GenerateRequest) -> Conditions:
        """What the policy is conditioned on. Raises a UserError for a prompt that is too long or wholly unknown."""
        self.prepare_text([request.prompt])
        return Conditions(
            text=self.models.text.embed(self._known(request.prompt)),
            negative=self.models.text.embed(self.preset.negative_prompt),
            guidance=self.preset.guidance if request.guidance is None else request.guidance,
            first_frame=self._first_frame(request.first_frame),
        )

    def denoise(self, request: GenerateRequest, *, on_step: OnStep | None = None) -> Latents:
        """A prompt and a seed to latents z_0."""
        return self._sample(request, on_step=on_step).latents

    def denoise_noise(
        self,
        noise: Float[Tensor, "B C T h w"],
        conditions: Conditions,
        *,
        request: GenerateRequest,
        on_step: OnStep | None = None,
    ) -> GuidedSample:
        """Noise x_1 to latents z_0 with the request's steps, adapter and reward guidance."""
        transformer = self.models.transformer
        if request.adapter is not None:
            load_adapter(transformer, request.adapter)
        try:
            return sample_guided(
                transformer,
                noise,
                conditions,
                guide=RewardGuide(
                    reward=guiding_reward(self._differentiable_geometry),
                    settings=request.reward_guidance or _UNGUIDED,
                ),
                steps=self._steps(request),
                shift=self.preset.flow_shift,
                on_step=on_step,
            )
        finally:
            remove_adapter(transformer)

    def generate(
        self,
        request: GenerateRequest,
        out: Path,
        *,
        on_progress: OnProgress = _ignore_progress,
        should_stop: ShouldStop = _never_stop,
    ) -> RunFolder:
        """Write a whole run folder to ``out``, or nothing. Raises UserError, and Cancelled between any two steps."""
        require_writable(out.parent)
        clock = _Clock(on_progress=on_progress, should_stop=should_stop, typical=self._typical)
        with atomic_folder(out) as folder:
            clock.enter("text")
            self._require_readable(request)
            self.prepare_text([request.prompt])
            denoised = self._denoise(request, clock)
            latents = denoised.latents
            clock.enter("decode")
            video = self._decode(latents)
            frames = frames_from_video(video)[0].numpy()
            clock.enter("geometry")
            scene = self._scene(latents, video, reward_space=request.reward_space)
            del video
            clock.enter("rewards")
            report = judge(scene)
            reward_guidance = self._reward_guidance(denoised, after=report)
            run_folder.write_latents(folder / "latents.safetensors", latents, preset=self.preset.name)
            run_folder.write_video(folder / "video.mp4", frames, fps=self.preset.fps)
            run_folder.write_geometry(folder / "geometry.npz", ClipGeometry.from_scene(scene))
            run_folder.write_rewards(folder / "rewards.json", report.to_json())
            run_folder.write_error_maps(folder / "error_maps.npz", report.terms)
            clock.enter("recording")
            self._record(folder)
            clock.close()
            manifest = self._manifest(request, folder, clock.seconds) | {"reward_guidance": reward_guidance}
            run_folder.write_manifest(folder / "manifest.json", manifest)
        if reward_guidance is None:
            # A guided run takes several times longer, and would spoil the estimate of plain ones.
            self._typical.update(clock.seconds)
        return RunFolder(path=out)

    def _sample(self, request: GenerateRequest, *, on_step: OnStep | None = None) -> GuidedSample:
        conditions = self.conditions(request)
        noise = draw_noise((1, *self.latent_shape), seed=request.seed, device=self.models.device)
        return self.denoise_noise(noise, conditions, request=request, on_step=on_step)

    def _denoise(self, request: GenerateRequest, clock: _Clock) -> Denoised:
        """The phase "denoise"; with reward guidance it makes the unguided sample too, to compare with."""
        steps = self._steps(request)
        if request.reward_guidance is None:
            clock.enter("denoise", total=steps)
            return Denoised(latents=self._sample(request, on_step=clock.report).latents)
        clock.enter("denoise", total=2 * steps)
        began = time.perf_counter()
        guided = self._sample(request, on_step=lambda done, _: clock.report(done, 2 * steps))
        middle = time.perf_counter()
        plain = replace(request, reward_guidance=None)
        unguided = self._sample(plain, on_step=lambda done, _: clock.report(steps + done, 2 * steps))
        comparison = GuidanceComparison(
            settings=request.reward_guidance,
            counts=guided.counts,
            unguided=unguided.latents,
            guided_seconds=middle - began,
            unguided_seconds=time.perf_counter() - middle,
        )
        return Denoised(latents=guided.latents, comparison=comparison)

    def _reward_guidance(self, denoised: Denoised, *, after: RewardReport) -> dict[str, object] | None:
        """The manifest's entry; reads and judges the unguided sample."""
        comparison = denoised.comparison
        if comparison is None:
            return None
        before = judge(self.geometry_from_latents(comparison.unguided))
        return comparison.to_json(before=before, after=after)

    def _steps(self, request: GenerateRequest) -> int:
        return self.preset.steps if request.steps is None else request.steps

    def _scene(self, latents: Latents, video: Tensor, *, reward_space: RewardSpaceName) -> SceneGeometry:
        """As ``read_geometry``, of a video that has been decoded already."""
        return self.geometry_from_latents(latents) if reward_space == "latent" else self.geometry_from_video(video)

    def _require_readable(self, request: GenerateRequest) -> None:
        """A Φ_g that does not exist is said before an hour of denoising, not after."""
        if request.reward_space == "latent":
            _ = self.models.latent_geometry

    @torch.no_grad()
    def _decode(self, latents: Latents) -> Float[Tensor, "B 3 N H W"]:
        """Video in [-1, 1]."""
        return self.vae.decode_normalised(latents)

    def _first_frame(self, path: Path | None) -> Float[Tensor, "1 C 1 h w"] | None:
        return None if path is None else first_frame_latents(path, self.vae, preset=self.preset)

    def _known(self, prompt: str) -> str:
        """What the model reads of a prompt: where the vocabulary is closed, its known words. Raises a UserError."""
        count = self.models.text.count_tokens(prompt)
        if count > self.preset.max_tokens:
            raise UserError(
                f"The prompt has {count} tokens; {self.preset.name} reads at most {self.preset.max_tokens}."
            )
        if not self.preset.closed_vocabulary:
            return prompt
        known = vocabulary.known_part(prompt)
        if not known.strip(" ,"):
            raise UserError(f"{self.preset.name} knows no word of this prompt; the About tab lists its words.")
        return known

    @staticmethod
    def _record(folder: Path) -> None:
        """The viser recording; its writer is a package of its own, because nothing here knows viser."""
        from scene_export import record_run

        record_run(folder)

    def _manifest(self, request: GenerateRequest, folder: Path, seconds: dict[str, float]) -> dict[str, object]:
        libraries = ("torch", "diffusers", "transformers", "viser")
        return {
            "kind": "generate",
            "prompt": request.prompt,
            "unknown_words": self.unknown_words(request.prompt),
            "seed": request.seed,
            "preset": self.preset.name,
            "adapter": None if request.adapter is None else request.adapter.name,
            "first_frame": None if request.first_frame is None else request.first_frame.name,
            "steps": self._steps(request),
            "guidance": self.preset.guidance if request.guidance is None else request.guidance,
            "num_frames": self.preset.num_frames,
            "fps": self.preset.fps,
            "height": self.preset.height,
            "width": self.preset.width,
            "geometry": "latent" if request.reward_space == "latent" else "video",
            "versions": {
                "vggrpo": __version__,
                "python": platform.python_version(),
                **{name: version(name) for name in libraries},
            },
            "device": str(self.models.device),
            "timings": {"load": self.load_seconds, **seconds},
            "files": sorted([*(path.name for path in folder.iterdir()), "manifest.json"]),
        }
