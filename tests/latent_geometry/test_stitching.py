"""Connector and stitching-layer search against torch's own convolution, least squares, and maps known to be linear."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.latent_geometry.samples import DEBUG_CONNECTOR, debug_clips
from vggrpo.latent_geometry import stitching
from vggrpo.latent_geometry.connector import Connector, ConnectorConfig, resample_in_time
from vggrpo.latent_geometry.foundation.any4d import Any4D
from vggrpo.latent_geometry.stitching import AlignedClip, error_table, plan_search, search_stitching_layer
from vggrpo.latent_geometry.streaming_regression import NormalEquations, Residuals
from vggrpo.runtime.allocation import MEBIBYTE, peak_allocation_mb
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents

KERNELS = [(5, 5, 5), (5, 3, 3)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("padding", ["constant", "replicate"])
def test_convolution_equals_the_linear_map_of_unfolded_patches(kernel: tuple[int, int, int], padding: str) -> None:
    config = ConnectorConfig(latent_channels=3, token_dim=7, kernel=kernel, padding=padding)
    connector = Connector(config).double()
    weight = torch.randn(7, config.patch_features, dtype=torch.float64)
    bias = torch.randn(7, dtype=torch.float64)
    connector.initialise(weight, bias)
    latents = torch.randn(2, 3, 3, 8, 6, dtype=torch.float64)
    torch.testing.assert_close(connector(latents), connector.unfold(latents) @ weight.T + bias)


def test_connector_is_one_strided_convolution_of_resampled_latents() -> None:
    """The paper's connector, spelled with torch's Conv3d: kernel 5, stride 1 x 2 x 2, padding 2."""
    connector = Connector(ConnectorConfig(latent_channels=16, token_dim=4, padding="constant"))
    latents = torch.randn(1, 16, 5, 16, 16)
    resampled = F.interpolate(latents, size=(17, 16, 16), mode="trilinear", align_corners=True)
    expected = F.conv3d(resampled, connector.conv.weight, connector.conv.bias, stride=(1, 2, 2), padding=2)
    tokens = connector(latents)
    assert tokens.shape == (1, 17, 8, 8, 4)
    torch.testing.assert_close(tokens, expected.permute(0, 2, 3, 4, 1), rtol=1e-4, atol=1e-5)


def test_resampling_keeps_latent_frames_and_is_linear_between_them() -> None:
    latents = torch.randn(1, 2, 4, 3, 3, dtype=torch.float64).float()
    frames = resample_in_time(latents, frames_per_latent=4)
    assert frames.shape[2] == 13
    torch.testing.assert_close(frames[:, :, ::4], latents)
    torch.testing.assert_close(frames[:, :, 6], (latents[:, :, 1] + latents[:, :, 2]) / 2)


def test_a_single_latent_frame_is_a_single_video_frame() -> None:
    latents = torch.randn(1, 2, 1, 4, 4)
    assert torch.equal(resample_in_time(latents, frames_per_latent=4), latents)


def test_ridge_equals_least_squares_of_the_augmented_system() -> None:
    x, y = torch.randn(40, 6, dtype=torch.float64), torch.randn(40, 3, dtype=torch.float64)
    ridge = 0.3
    equations = NormalEquations(6, targets=3)
    equations.add(x[:15], [y[:15]])
    equations.add(x[15:], [y[15:, :2], y[15:, 2:]])
    # Ridge with a free bias: least squares of centred data with √(n λ) I appended.
    appended = torch.cat([x - x.mean(0), (40 * ridge) ** 0.5 * torch.eye(6, dtype=torch.float64)])
    target = torch.cat([y - y.mean(0), torch.zeros(6, 3, dtype=torch.float64)])
    weight = torch.linalg.lstsq(appended, target).solution
    solution = equations.solve(ridge=ridge)
    torch.testing.assert_close(solution[:-1], weight)
    torch.testing.assert_close(solution[-1], y.mean(0) - x.mean(0) @ weight)
    residuals = Residuals(solution)
    residuals.add(x[:7], [y[:7, :1], y[:7, 1:]])
    residuals.add(x[7:], [y[7:]])
    torch.testing.assert_close(residuals.missed(), (x @ solution[:-1] + solution[-1] - y).square().sum(0))
    torch.testing.assert_close(residuals.variation(), (y - y.mean(0)).square().sum(0))


class LinearEncoder(Any4D):
    """Encoder activations that are known: block 2 is exactly linear in the latents, the others are noise on top."""

    connector: Connector
    noise = (0.5, 0.0)

    def encoder_activations(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        latents = latents_in(images)
        tokens = self.connector(latents).flatten(2, 3) + self.position_embedding(self.grid_of(images))
        prefix = torch.full((*tokens.shape[:2], 1, tokens.shape[-1]), 2.5)
        generator = torch.Generator().manual_seed(1)
        for share in self.noise:
            noisy = tokens + share * torch.randn(tokens.shape, generator=generator)
            yield torch.cat([prefix, noisy], dim=2)


def latents_in(images: torch.Tensor) -> torch.Tensor:
    """The latents that ``hide_latents`` put into a corner of the first frames."""
    return images[:, ::4, :2, :4, :4].movedim(1, 2)


def hide_latents(clip: AlignedClip) -> AlignedClip:
    images = clip.images.clone()
    images[:, ::4, :2, :4, :4] = clip.latents.tensor.movedim(2, 1)
    return replace(clip, images=images)


def test_search_finds_the_linear_layer_and_its_connector(debug_model: Any4D) -> None:
    model = LinearEncoder(debug_model.config).eval()
    torch.manual_seed(0)
    model.connector = Connector(DEBUG_CONNECTOR)
    clips = [hide_latents(clip) for clip in debug_clips(24, frames_of_latents=3)]
    fits = search_stitching_layer(model, DEBUG_CONNECTOR, fit=clips[:20], test=clips[20:], ridge=1e-9)
    assert [fit.block for fit in fits] == [2, 1]
    assert fits[0].error < 1e-6
    assert 0.05 < fits[1].error < 1
    torch.testing.assert_close(fits[0].weight, model.connector.conv.weight.flatten(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(fits[0].bias, model.connector.conv.bias, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(fits[0].prefix, torch.full((1, model.token_dim), 2.5))


def test_unrelated_latents_explain_nothing(debug_model: Any4D) -> None:
    """On clips that were not fitted ε cannot fall below 1 when latents and video have nothing in common."""
    clips = debug_clips(6)
    fits = search_stitching_layer(debug_model, DEBUG_CONNECTOR, fit=clips[:4], test=clips[4:])
    assert all(fit.error > 0.9 for fit in fits)


def just_too_little(model: Any4D, config: ConnectorConfig) -> float:
    """GiB: a little less than all blocks at once take."""
    return (plan_search(model, config, grid=(2, 2), limit_gib=8.0).bytes - 1) / 2**30


def direct_fit(model: Any4D, clips: list[AlignedClip], *, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All patches and all tokens after a block, in memory at once."""
    connector = Connector(DEBUG_CONNECTOR)
    patches = torch.cat([connector.unfold(clip.latents.tensor).flatten(0, 3) for clip in clips]).double()
    images = torch.cat([clip.images for clip in clips])
    tokens = list(model.encoder_activations(images))[block - 1].double()
    return patches, (tokens[:, :, 1:] - model.position_embedding((2, 2)).double()).flatten(0, 2)


@pytest.mark.parametrize(("rows", "passes"), [(8192, 1), (4, 1), (8, 2)])
@torch.no_grad()
def test_streaming_search_is_direct_least_squares(
    debug_model: Any4D, monkeypatch: pytest.MonkeyPatch, rows: int, passes: int
) -> None:
    """However few frames and blocks are held at a time: the least squares of everything at once, block by block."""
    monkeypatch.setattr(stitching, "ROWS_AT_ONCE", rows)
    clips = debug_clips(9)
    gib = 8.0 if passes == 1 else just_too_little(debug_model, DEBUG_CONNECTOR)
    plan = plan_search(debug_model, DEBUG_CONNECTOR, grid=(2, 2), limit_gib=gib)
    assert (plan.frames_at_once, plan.passes) == (rows // 4, passes)
    fits = search_stitching_layer(
        debug_model, DEBUG_CONNECTOR, fit=clips[:6], test=clips[6:], ridge=1e-2, memory_gib=gib
    )
    assert sorted(fit.block for fit in fits) == [1, 2]
    for fit in fits:
        x, y = direct_fit(debug_model, clips[:6], block=fit.block)
        penalty = (len(x) * 1e-2) ** 0.5 * torch.eye(x.shape[1], dtype=torch.float64)
        appended = torch.cat([x - x.mean(0), penalty])
        weight = torch.linalg.lstsq(appended, torch.cat([y - y.mean(0), y.new_zeros(x.shape[1], y.shape[1])])).solution
        bias = y.mean(0) - x.mean(0) @ weight
        torch.testing.assert_close(fit.weight, weight.T.float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fit.bias, bias.float(), rtol=1e-4, atol=1e-5)
        x, y = direct_fit(debug_model, clips[6:], block=fit.block)
        error = (x @ weight + bias - y).square().sum() / (y - y.mean(0)).square().sum()
        assert fit.error == pytest.approx(float(error), rel=1e-5)


def test_the_search_keeps_to_the_memory_that_it_states(debug_model: Any4D) -> None:
    """Counted allocations with a connector so large that the sums outweigh everything else; fewer blocks, less."""
    config = replace(DEBUG_CONNECTOR, kernel=(9, 9, 9))
    clips = debug_clips(3)
    peaks = []
    for gib in (8.0, just_too_little(debug_model, config)):
        plan = plan_search(debug_model, config, grid=(2, 2), limit_gib=gib)

        def search(gib: float = gib) -> None:
            search_stitching_layer(debug_model, config, fit=clips[:2], test=clips[2:], memory_gib=gib)

        peaks.append(peak_allocation_mb(search, device=torch.device("cpu")))
        assert peaks[-1] < 1.05 * plan.bytes / MEBIBYTE
    assert peaks[1] < peaks[0]


def test_a_memory_too_small_for_one_block_says_how_much_it_takes(debug_model: Any4D) -> None:
    with pytest.raises(UserError, match=r"needs 0\.\d+ GiB.*--search-memory-gib"):
        search_stitching_layer(debug_model, DEBUG_CONNECTOR, fit=debug_clips(1), test=debug_clips(1), memory_gib=1e-6)


def test_patches_of_some_frames_are_those_of_all(debug_model: Any4D) -> None:
    connector = Connector(DEBUG_CONNECTOR)
    latents = torch.randn(1, 2, 3, 4, 4)
    whole = connector.unfold(latents)
    assert connector.output_grid(latents) == tuple(whole.shape[1:4])
    assert torch.equal(connector.unfold(latents, frames=range(3, 7)), whole[:, 3:7])


def test_search_names_grids_that_differ(debug_model: Any4D) -> None:
    clip = debug_clips(1)[0]
    larger = replace(clip, latents=Latents(tensor=torch.randn(1, 2, 2, 8, 8)))
    with pytest.raises(UserError, match="stride"):
        search_stitching_layer(debug_model, DEBUG_CONNECTOR, fit=[larger], test=[larger])


def test_search_without_clips_says_so(debug_model: Any4D) -> None:
    with pytest.raises(UserError, match="no clips"):
        search_stitching_layer(debug_model, DEBUG_CONNECTOR, fit=[], test=[])
    with pytest.raises(UserError, match="test on"):
        search_stitching_layer(debug_model, DEBUG_CONNECTOR, fit=debug_clips(1), test=[])


def test_table_lists_every_block_and_marks_the_choice(debug_model: Any4D) -> None:
    clips = debug_clips(3)
    fits = search_stitching_layer(debug_model, DEBUG_CONNECTOR, fit=clips[:2], test=clips[2:])
    table = error_table(fits, chosen=2)
    columns = [list(column.cells) for column in table.columns]
    assert columns[0] == ["1", "2"]
    assert columns[2] == ["", "← chosen"]
