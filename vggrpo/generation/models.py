"""The models of a preset: from shipped folders, a folder of the user's, a hub, or fresh with random weights.

Everything is looked at before anything is loaded: the wrong model, a missing or truncated file is one clear line. The
embedded models are loaded at once, the released ones part by part when they are needed: the text encoder leaves after
embedding, the VAE waits for frames, and Φ is dropped where only Φ_g is asked for.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor, nn

from vggrpo.generation.architecture import DEBUG_VIDEO, Architecture, architecture_of
from vggrpo.generation.options import LoadOptions
from vggrpo.generation.random_text import random_text
from vggrpo.latent_geometry.foundation.base import GeometryModel
from vggrpo.latent_geometry.foundation.registry import GeometryModelInfo, geometry_info, load_geometry
from vggrpo.latent_geometry.model import LatentGeometryModel
from vggrpo.latent_geometry.pixel_grid import resize_for_geometry
from vggrpo.latent_geometry.provenance import read_trained_on, require_trained_on
from vggrpo.latents import VideoVAE
from vggrpo.policy.backbone import TextConditioner, cast_like_pretrained, load_transformer
from vggrpo.policy.pipeline_folder import PipelineFolder, check_pipeline_folder
from vggrpo.presets import Preset
from vggrpo.pretraining.text import build_tokenizer
from vggrpo.runtime.device import choose_device, choose_dtype
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.hub import HubRepo, OnBytes, fetch
from vggrpo.runtime.integrity import verify_files
from vggrpo.runtime.lazy import Lazy
from vggrpo.types import SceneGeometry

__all__ = ["DEBUG_VIDEO", "LoadListener", "LoadOptions", "Models", "load_models"]

log = logging.getLogger(__name__)

PartName = Literal["transformer", "geometry", "latent_geometry", "vae", "text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadListener:
    """Whoever wants to hear of loading: lines for people (licences, notes), and bytes as they are fetched."""

    line: Callable[[str], None] = log.info
    on_bytes: OnBytes | None = None


@dataclass(frozen=True, kw_only=True)
class Models:
    """Everything frozen, in evaluation mode, on one device; parts are loaded when they are first touched."""

    vae: VideoVAE
    text: TextConditioner
    device: torch.device
    transformer_source: Lazy[WanTransformer3DModel] = field(repr=False)
    geometry_source: Lazy[GeometryModel] = field(repr=False)
    latent_geometry_source: Lazy[LatentGeometryModel] = field(repr=False)

    @property
    def transformer(self) -> WanTransformer3DModel:
        """The video transformer."""
        return self.transformer_source.get()

    @property
    def geometry(self) -> GeometryModel:
        """Φ: geometry from frames."""
        return self.geometry_source.get()

    @property
    def latent_geometry(self) -> LatentGeometryModel:
        """Φ_g: geometry from latents. Raises a UserError where none has been trained."""
        return self.latent_geometry_source.get()

    @torch.no_grad()
    def geometry_of_video(self, video: Float[Tensor, "B 3 N H W"]) -> SceneGeometry:
        """Φ(x) for video in [-1, 1], resized to Φ's own pixels: the geometry has those."""
        images = (video.transpose(1, 2).to(self.device) + 1.0) / 2.0
        return self.geometry.geometry(resize_for_geometry(images, patch_size=self.geometry.patch_size))

    def release(self, part: PartName) -> None:
        """Let a part go; touching it again loads it again."""
        sources: dict[PartName, Any] = {
            "transformer": self.transformer_source,
            "geometry": self.geometry_source,
            "latent_geometry": self.latent_geometry_source,
            "vae": self.vae,
            "text": self.text,
        }
        sources[part].release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def load_all(self) -> None:
        """Load every part but the text encoder now, so that the first video does not wait."""
        _ = (self.vae.model, self.transformer, self.geometry, self.latent_geometry)


def load_models(preset: Preset, options: LoadOptions | None = None, *, listener: LoadListener | None = None) -> Models:
    """A preset's models.

    Raises:
        UserError: a weight file is missing, truncated, altered or of another model, or cannot be fetched.
    """
    options, listener = (options or LoadOptions()).at_hand(preset), listener or LoadListener()
    geometry_info(options.geometry or preset.geometry)
    is_own = preset.folders is None and not preset.is_released_model and options.model_folder is None
    if options.random_weights or is_own:
        return random_models(preset, architecture_of(preset, options))
    return _Loader(preset=preset, options=options, listener=listener).models()


@dataclass(frozen=True, kw_only=True)
class _Loader:
    """Files to models."""

    preset: Preset
    options: LoadOptions
    listener: LoadListener

    def models(self) -> Models:
        """All checked; loaded at once where they are small."""
        pipeline = self._pipeline()
        device = choose_device()
        dtype = choose_dtype(device)
        is_large = self.preset.is_released_model
        geometry = Lazy(lambda: self._geometry(device))
        # Wan's own VAE is run in fp32 by its authors; the embedded one was trained in bf16.
        vae = VideoVAE.load(pipeline.part("vae"), dtype=torch.float32 if is_large else dtype, device=device)
        models = Models(
            vae=vae,
            text=TextConditioner.load(
                pipeline.path,
                dtype=dtype if is_large else torch.float32,
                device=device,
                max_tokens=self.preset.max_tokens,
                keep_encoder=not is_large,
            ),
            device=device,
            transformer_source=Lazy(
                lambda: load_transformer(pipeline.path, dtype=dtype, device=device),
            ),
            geometry_source=geometry,
            latent_geometry_source=Lazy(lambda: self._latent_geometry(geometry, vae)),
        )
        if not is_large and self.options.model_folder is None and self.options.geometry is None:
            models.load_all()
        return models

    def _pipeline(self) -> PipelineFolder:
        """The video model's folder, checked."""
        preset, given = self.preset, self.options.model_folder
        if given is None and preset.folders is not None:
            verify_files(preset.folders.root, preset.folders.manifest)
            return check_pipeline_folder(preset.folders.pipeline)
        if given is None:
            assert preset.hub is not None, "debug presets never come here"
            self.listener.line(_licence_line(preset.hub))
            given = fetch(preset.hub, offline=self.options.offline, on_bytes=self.listener.on_bytes)
        folder = check_pipeline_folder(given)
        self._require_same_family(folder)
        return folder

    def _require_same_family(self, folder: PipelineFolder) -> None:
        """A folder may be smaller or larger than the preset's model, but not of another kind."""
        preset, sizes = self.preset, folder.sizes
        channels, factor = sizes.vae.get("z_dim"), sizes.vae.get("scale_factor_spatial") or 8
        if (channels, factor) != (preset.latent_channels, preset.spatial_factor):
            raise UserError(
                f"{folder.path} holds another model: its VAE makes {channels} channels at 1/{factor} of the size, "
                f"{preset.name} has {preset.latent_channels} at 1/{preset.spatial_factor}; choose another --preset."
            )
        if preset.takes_first_frame and not sizes.expand_timesteps:
            raise UserError(
                f"{folder.path} holds another model: it has one timestep for all frames, {preset.name} one a token "
                "(expand_timesteps in model_index.json); choose another --preset."
            )
        if preset.sizes is None:
            return
        for name in ("num_layers", "num_attention_heads", "ffn_dim"):
            found, released = sizes.transformer.get(name), preset.sizes.transformer[name]
            if found != released:
                self.listener.line(
                    f"{folder.path} is not the released {preset.name}: {name} is {found}, not {released}."
                )
                return

    def _geometry(self, device: torch.device) -> GeometryModel:
        """Φ, from the folder that the user or the preset names, or its hub."""
        info = geometry_info(self.options.geometry or self.preset.geometry)
        source = self.options.geometry_weights
        is_shipped = self.preset.folders is not None and info.name == self.preset.geometry
        if source is None and is_shipped and self.preset.folders is not None:
            source = self.preset.folders.geometry
        elif source is None:
            source = fetch_geometry(info, offline=self.options.offline, on_bytes=self.listener.on_bytes)
        if not is_shipped:
            self.listener.line(info.notice())
        # Half the memory and several times the speed where it matters; its heads stay in fp32.
        dtype = choose_dtype(device) if self.preset.is_released_model else torch.float32
        return load_geometry(info.name, source, device=device, dtype=dtype)

    def _latent_geometry(self, geometry: Lazy[GeometryModel], vae: VideoVAE) -> LatentGeometryModel:
        """Φ_g on Φ, its LoRA merged. A Φ that nobody else asked for is taken over, not copied."""
        folder = self.options.latent_geometry
        if folder is None and self.preset.folders is not None and self.options.geometry in {None, self.preset.geometry}:
            folder = self.preset.folders.latent_geometry
        if folder is None:
            raise UserError(_no_latent_geometry(self.preset))
        self._require_trained_on(folder, vae)
        device = choose_device()
        is_shared = geometry.is_loaded
        foundation = geometry.get() if is_shared else self._geometry(device)
        model = LatentGeometryModel.load(folder, foundation=foundation, copy_foundation=is_shared)
        _require_fitting_connector(model, self.preset, folder)
        model.merge_lora()
        return model.to(device).eval().requires_grad_(requires_grad=False)

    def _require_trained_on(self, folder: Path, vae: VideoVAE) -> None:
        """Φ_g must have been trained on this VAE's latents; its weights are looked at and let go again."""
        if read_trained_on(folder) is None:
            return
        was_loaded, preset = vae.is_loaded, self.preset
        remark = require_trained_on(
            folder, vae=vae.model, height=preset.height, width=preset.width, num_frames=preset.num_frames
        )
        if not was_loaded:
            vae.release()
        if remark:
            self.listener.line(remark)


def fetch_geometry(info: GeometryModelInfo, *, offline: bool, on_bytes: OnBytes | None) -> Path:
    """A geometry model's published weights, fetched if need be. Raises a UserError where they are not to be had."""
    repo = HubRepo(
        repo=info.hub_repo, patterns=(info.hub_file,), licence=info.licence_weights, gigabytes=info.gigabytes
    )
    return fetch(repo, offline=offline, on_bytes=on_bytes) / info.hub_file


def random_models(preset: Preset, architecture: Architecture) -> Models:
    """Random weights from a fixed seed: the same on every machine, and without files. Minimal ones stay in fp32."""
    is_large = preset.is_released_model
    device = choose_device() if is_large else torch.device("cpu")
    dtype = choose_dtype(device) if is_large else torch.float32

    def make_geometry() -> GeometryModel:
        model = cast(GeometryModel, _seeded(architecture.build_geometry, device))
        if dtype == torch.bfloat16:
            model.to_bfloat16()
        return model

    geometry = Lazy(make_geometry)

    def make_latent_geometry() -> LatentGeometryModel:
        is_shared = geometry.is_loaded
        foundation = geometry.get() if is_shared else make_geometry()

        def build() -> LatentGeometryModel:
            return architecture.build_latent_geometry(foundation, copy_foundation=is_shared)

        return cast(LatentGeometryModel, _seeded(build, device))

    models = Models(
        vae=VideoVAE(source=Lazy(lambda: _seeded(architecture.build_vae, device)), config=architecture.sizes.vae),
        text=_random_conditioner(preset, architecture, device=device, dtype=dtype),
        device=device,
        transformer_source=Lazy(lambda: cast_like_pretrained(_seeded(architecture.build_transformer, device), dtype)),
        geometry_source=geometry,
        latent_geometry_source=Lazy(make_latent_geometry),
    )
    if not is_large:
        models.load_all()
    return models


def _random_conditioner(
    preset: Preset, architecture: Architecture, *, device: torch.device, dtype: torch.dtype
) -> TextConditioner:
    """UMT5-XXL is not built only to make random numbers of its own."""
    tokenizer = build_tokenizer(preset.max_tokens)
    if preset.is_released_model:
        encoder = Lazy(lambda: random_text(len(tokenizer), architecture.sizes.transformer["text_dim"], dtype=dtype))
    else:
        encoder = Lazy(lambda: _seeded(architecture.build_text_encoder, device))
    return TextConditioner(tokenizer=tokenizer, encoder=encoder, max_tokens=preset.max_tokens, device=device)


def _seeded(build: Callable[[], Any], device: torch.device) -> Any:
    """Random weights, drawn where they stay: true sizes take minutes on a CPU."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(0)
        return _frozen(build(), device)


def _frozen(model: Any, device: torch.device) -> Any:
    cast(nn.Module, model).to(device).eval().requires_grad_(requires_grad=False)
    return model


def _require_fitting_connector(model: LatentGeometryModel, preset: Preset, folder: Path) -> None:
    """Φ_g must read this preset's latents."""
    connector = model.config.connector
    if connector.latent_channels != preset.latent_channels:
        raise UserError(
            f"{folder} reads latents of {connector.latent_channels} channels, {preset.name} makes "
            f"{preset.latent_channels}: it was trained for another video model."
        )


def _licence_line(source: HubRepo) -> str:
    return f"{source.repo}: about {source.gigabytes:g} GB, licence {source.licence} ({source.address})."


def _no_latent_geometry(preset: Preset) -> str:
    return (
        f"{preset.name} has no trained latent geometry model yet: make one with "
        f"`python -m vggrpo train-lgm --preset {preset.name}` and give --latent-geometry FOLDER, or judge decoded "
        "video with --reward-space rgb."
    )
