"""The files of a run: what is written is read back, equal content has equal bytes, defects are one named line."""

import io
import json
import subprocess
import sys
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import av
import numpy as np
import pytest
import safetensors.torch
import torch

from vggrpo.runtime import array_archive, run_folder
from vggrpo.runtime.errors import UserError
from vggrpo.types import ClipGeometry, Latents, RewardTerm

FRAMES, HEIGHT, WIDTH = 5, 12, 16


def clip(seed: int = 0) -> ClipGeometry:
    rng = np.random.default_rng(seed)
    depth = rng.uniform(1, 5, (FRAMES, HEIGHT, WIDTH)).astype(np.float32)
    intrinsics = np.array([[20.0, 0, 8], [0, 20, 6], [0, 0, 1]], dtype=np.float32)
    return ClipGeometry(
        camera_from_world=np.tile(np.eye(4, dtype=np.float32), (FRAMES, 1, 1)),
        intrinsics=np.tile(intrinsics, (FRAMES, 1, 1)),
        depth=depth,
        points=rng.normal(size=(*depth.shape, 3)).astype(np.float32),
        scene_flow=rng.normal(size=(*depth.shape, 3)).astype(np.float32),
        confidence=np.ones_like(depth),
        valid=rng.random(depth.shape) < 0.9,
    )


def arrays(geometry: ClipGeometry) -> dict[str, np.ndarray]:
    return {field.name: getattr(geometry, field.name) for field in fields(geometry)}


def moving_frames(count: int = 6, height: int = 32, width: int = 48) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    frames = [np.stack([rows * 4, columns * 4, np.full_like(rows, 30 * k)], axis=-1) for k in range(count)]
    return np.stack(frames).clip(0, 255).astype(np.uint8)


class TestGeometry:
    def test_numpy_and_we_read_what_was_written(self, tmp_path: Path) -> None:
        path = tmp_path / "geometry.npz"
        run_folder.write_geometry(path, clip())
        with np.load(path, allow_pickle=False) as archive:
            assert sorted(archive.files) == sorted(arrays(clip()))
            for name, array in arrays(clip()).items():
                np.testing.assert_array_equal(archive[name], array)
                assert archive[name].dtype == (bool if name == "valid" else np.float32)
        for name, array in arrays(run_folder.read_geometry(path)).items():
            np.testing.assert_array_equal(array, arrays(clip())[name])

    def test_equal_content_has_equal_bytes(self, tmp_path: Path) -> None:
        for name in ("a.npz", "b.npz"):
            run_folder.write_geometry(tmp_path / name, clip())
        assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
        run_folder.write_geometry(tmp_path / "c.npz", clip(seed=1))
        assert (tmp_path / "a.npz").read_bytes() != (tmp_path / "c.npz").read_bytes()

    def test_numpys_own_archives_in_double_precision_are_read(self, tmp_path: Path) -> None:
        wide = {k: a if k == "valid" else np.asfortranarray(a.astype(np.float64)) for k, a in arrays(clip()).items()}
        np.savez(tmp_path / "wide.npz", **wide)
        np.testing.assert_allclose(run_folder.read_geometry(tmp_path / "wide.npz").points, clip().points)

    def test_pixels_that_are_not_finite_are_written_as_invalid(self, tmp_path: Path) -> None:
        depth = clip().depth.copy()
        depth[2, 3, 4] = np.nan
        run_folder.write_geometry(tmp_path / "g.npz", replace(clip(), depth=depth))
        read = run_folder.read_geometry(tmp_path / "g.npz")
        assert not read.valid[2, 3, 4]
        assert read.depth[2, 3, 4] == 0

    @pytest.mark.parametrize("name", sorted(arrays(clip())))
    def test_a_missing_array_is_named_with_its_shape(self, tmp_path: Path, name: str) -> None:
        kept = {key: array for key, array in arrays(clip()).items() if key != name}
        np.savez(tmp_path / "g.npz", **kept)
        with pytest.raises(UserError, match=rf"no array '{name}'.*\[N, "):
            run_folder.read_geometry(tmp_path / "g.npz")

    @pytest.mark.parametrize("name", sorted(set(arrays(clip())) - {"depth"}))
    def test_a_misshaped_array_is_named_with_both_shapes(self, tmp_path: Path, name: str) -> None:
        cut = arrays(clip()) | {name: arrays(clip())[name][:-1]}
        np.savez(tmp_path / "g.npz", **cut)
        with pytest.raises(UserError, match=rf"'{name}' has shape \[4, .*must be \[5, "):
            run_folder.read_geometry(tmp_path / "g.npz")

    @pytest.mark.parametrize("name", sorted(set(arrays(clip())) - {"valid"}))
    @pytest.mark.parametrize("number", [np.nan, np.inf])
    def test_a_number_that_is_not_finite_is_named_with_its_place(
        self, tmp_path: Path, name: str, number: float
    ) -> None:
        spoilt = arrays(clip())[name].copy()
        spoilt[2].flat[1] = number
        np.savez(tmp_path / "g.npz", **(arrays(clip()) | {name: spoilt}))
        with pytest.raises(UserError, match=rf"'{name}'.* holds NaN or infinity at \[2, "):
            run_folder.read_geometry(tmp_path / "g.npz")

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            ({"depth": np.ones((5, 12), dtype=np.float32)}, r"'depth' has shape \[5, 12\]"),
            ({"depth": -clip().depth}, "'depth' must be positive"),
            ({"valid": np.ones((5, 12, 16), dtype=np.float32)}, "'valid' holds float32"),
            ({"intrinsics": -clip().intrinsics}, "'intrinsics' must have positive focal"),
            ({"camera_from_world": 2 * clip().camera_from_world}, "'camera_from_world' is not a rotation"),
            ({"points": np.array(["a", "b"])}, "'points' holds <U1"),
        ],
    )
    def test_geometry_that_cannot_be_is_refused(
        self, tmp_path: Path, change: dict[str, np.ndarray], complaint: str
    ) -> None:
        np.savez(tmp_path / "g.npz", **(arrays(clip()) | change))
        with pytest.raises(UserError, match=complaint):
            run_folder.read_geometry(tmp_path / "g.npz")

    def test_pickles_are_not_opened(self, tmp_path: Path) -> None:
        hostile = np.array([object()], dtype=object)
        np.savez(tmp_path / "g.npz", allow_pickle=True, **(arrays(clip()) | {"depth": hostile}))
        with pytest.raises(UserError, match="'depth' holds object"):
            run_folder.read_geometry(tmp_path / "g.npz")

    def test_a_header_that_promises_terabytes_allocates_nothing(self, tmp_path: Path) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)})
        self._with_member(tmp_path / "g.npz", "depth", header.getvalue() + b"\0" * 64)
        with pytest.raises(UserError, match="'depth' is cut short"):
            run_folder.read_geometry(tmp_path / "g.npz")

    def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(self, tmp_path: Path) -> None:
        self._with_member(tmp_path / "g.npz", "points", b"\0" * 2**21)
        assert (tmp_path / "g.npz").stat().st_size < 2**18
        with pytest.raises(UserError, match="unpacks to"):
            array_archive.read_archive(tmp_path / "g.npz", names={"points": "[N, H, W, 3]"}, max_bytes=2**20)

    @pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not really a zip"])
    def test_other_files_are_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "g.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"is not an \.npz archive"):
            run_folder.read_geometry(tmp_path / "g.npz")
        with pytest.raises(UserError, match="does not exist"):
            run_folder.read_geometry(tmp_path / "none.npz")

    def test_damage_anywhere_is_a_user_error_or_the_same_content(self, tmp_path: Path) -> None:
        path = tmp_path / "g.npz"
        run_folder.write_geometry(path, clip())
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        for _ in range(60):
            spoilt = bytearray(whole)
            spoilt[rng.integers(len(whole))] ^= 0xFF
            path.write_bytes(spoilt if rng.random() < 0.7 else spoilt[: rng.integers(len(whole))])
            try:
                read = run_folder.read_geometry(path)
            except UserError:
                continue
            for name, array in arrays(read).items():
                np.testing.assert_array_equal(array, arrays(clip())[name])

    @staticmethod
    def _with_member(path: Path, name: str, content: bytes) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, **{key: array for key, array in arrays(clip()).items() if key != name})
        path.write_bytes(buffer.getvalue())
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.npy", content)


class TestLatents:
    def test_the_library_reads_what_was_written(self, tmp_path: Path) -> None:
        tensor = torch.randn(1, 16, 5, 4, 4, generator=torch.Generator().manual_seed(0))
        path = tmp_path / "latents.safetensors"
        run_folder.write_latents(path, Latents(tensor=tensor), preset="tiny")
        torch.testing.assert_close(safetensors.torch.load_file(path)["latents"], tensor, rtol=0, atol=0)
        read = run_folder.read_latents(path)
        assert read.preset == "tiny"
        torch.testing.assert_close(read.latents.tensor, tensor, rtol=0, atol=0)

    def test_bytes_are_the_same_in_every_process(self, tmp_path: Path) -> None:
        program = (
            "import sys, torch, pathlib; from vggrpo.runtime import run_folder; from vggrpo.types import Latents\n"
            "run_folder.write_latents(pathlib.Path(sys.argv[1]), Latents(tensor=torch.ones(1, 2, 1, 2, 2)), preset='p')"
        )
        other = tmp_path / "other.safetensors"
        subprocess.run([sys.executable, "-c", program, str(other)], check=True, cwd=Path(__file__).parents[2])
        here = tmp_path / "here.safetensors"
        run_folder.write_latents(here, Latents(tensor=torch.ones(1, 2, 1, 2, 2)), preset="p")
        assert here.read_bytes() == other.read_bytes()

    @pytest.mark.parametrize(
        ("tensors", "metadata", "complaint"),
        [
            ({"z": torch.zeros(1, 2, 1, 2, 2)}, {}, "no tensor 'latents'"),
            ({"latents": torch.zeros(2, 2)}, {}, "must be"),
            ({"latents": torch.zeros(3, 2, 1, 2, 2)}, {}, "one video"),
            ({"latents": torch.full((1, 2, 1, 2, 2), torch.nan)}, {}, "NaN"),
            ({"latents": torch.zeros(1, 2, 1, 2, 2, dtype=torch.int32)}, {}, "floating-point"),
            ({"latents": torch.zeros(1, 2, 1, 2, 2)}, {"space": "raw"}, "normalise them"),
        ],
    )
    def test_other_tensors_are_refused(
        self, tmp_path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], complaint: str
    ) -> None:
        safetensors.torch.save_file(tensors, tmp_path / "z.safetensors", metadata=metadata)
        with pytest.raises(UserError, match=complaint):
            run_folder.read_latents(tmp_path / "z.safetensors")

    def test_other_files_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "z.safetensors").write_text("hello")
        with pytest.raises(UserError, match="not a safetensors file"):
            run_folder.read_latents(tmp_path / "z.safetensors")


class TestVideo:
    def test_frames_come_back_nearly_as_they_were(self, tmp_path: Path) -> None:
        frames = moving_frames()
        run_folder.write_video(tmp_path / "v.mp4", frames, fps=8)
        read = run_folder.read_video(tmp_path / "v.mp4", max_frames=100)
        assert read.frames.shape == frames.shape
        assert read.fps == 8
        assert not read.has_more
        assert np.abs(read.frames.astype(int) - frames).mean() < 4

    def test_it_plays_in_browsers(self, tmp_path: Path) -> None:
        path = tmp_path / "v.mp4"
        run_folder.write_video(path, moving_frames(), fps=8)
        content = path.read_bytes()
        assert content.index(b"moov") < content.index(b"mdat")
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"

    def test_equal_frames_have_equal_bytes(self, tmp_path: Path) -> None:
        for name in ("a.mp4", "b.mp4"):
            run_folder.write_video(tmp_path / name, moving_frames(), fps=8)
        assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]

    def test_reading_stops_at_the_bound(self, tmp_path: Path) -> None:
        run_folder.write_video(tmp_path / "v.mp4", moving_frames(), fps=8)
        read = run_folder.read_video(tmp_path / "v.mp4", max_frames=4)
        assert len(read.frames) == 4
        assert read.has_more

    def test_reading_stops_where_the_bytes_do(self, tmp_path: Path) -> None:
        run_folder.write_video(tmp_path / "v.mp4", moving_frames(), fps=8)
        whole = run_folder.read_video(tmp_path / "v.mp4", max_frames=100)
        read = run_folder.read_video(tmp_path / "v.mp4", max_frames=100, max_bytes=3 * whole.frames[0].nbytes + 1)
        assert (len(read.frames), read.has_more) == (3, True)

    @pytest.mark.parametrize("name", ["notes.mp4", "notes.txt", "list.m3u8", "list.ffconcat"])
    def test_text_is_no_video_and_opens_nothing_else(self, tmp_path: Path, name: str) -> None:
        run_folder.write_video(tmp_path / "v.mp4", moving_frames(), fps=8)
        text = {
            "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nv.mp4\n#EXT-X-ENDLIST\n",
            "list.ffconcat": "ffconcat version 1.0\nfile v.mp4\n",
        }.get(name, "hello\n" * 100)
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="cannot be read as a video"):
            run_folder.read_video(tmp_path / name, max_frames=100)

    def test_a_damaged_video_and_one_without_pictures_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "v.mp4"
        run_folder.write_video(path, moving_frames(), fps=8)
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(UserError, match=r"v\.mp4"):
            run_folder.read_video(path, max_frames=100)
        with av.open(str(tmp_path / "sound.mp4"), "w") as container:
            stream = container.add_stream("aac", rate=16000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
            frame.rate = 16000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        with pytest.raises(UserError, match="no video stream"):
            run_folder.read_video(tmp_path / "sound.mp4", max_frames=100)
        with pytest.raises(UserError, match="does not exist"):
            run_folder.read_video(tmp_path / "none.mp4", max_frames=100)


class TestJson:
    def test_nan_becomes_null_and_text_stays_readable(self, tmp_path: Path) -> None:
        content = {"value": float("nan"), "per_frame": [1.0, float("inf")], "prompt": "Φ ×", "n": np.float32(0.5)}
        run_folder.write_rewards(tmp_path / "rewards.json", content)
        text = (tmp_path / "rewards.json").read_text()
        assert json.loads(text) == {"value": None, "per_frame": [1.0, None], "prompt": "Φ ×", "n": 0.5}
        assert "Φ" in text

    def test_a_run_folder_reads_its_files_and_names_what_is_missing(self, tmp_path: Path) -> None:
        run = run_folder.RunFolder(path=tmp_path)
        run_folder.write_manifest(tmp_path / "manifest.json", {"seed": 1})
        run_folder.write_geometry(tmp_path / "geometry.npz", clip())
        assert run.manifest() == {"seed": 1}
        assert run.geometry().depth.shape == (FRAMES, HEIGHT, WIDTH)
        with pytest.raises(UserError, match=r"rewards\.json is missing"):
            run.rewards()
        (tmp_path / "rewards.json").write_text("[1")
        with pytest.raises(UserError, match="not valid JSON"):
            run.rewards()

    def test_error_maps_keep_nan_and_names(self, tmp_path: Path) -> None:
        map_ = torch.tensor([[[[0.5, torch.nan]]]])
        judged = RewardTerm(
            name="a", value=torch.zeros(1), per_frame=torch.zeros(1, 1), reasons=(None,), error_map=map_
        )
        without = replace(judged, name="b", error_map=None)
        run_folder.write_error_maps(tmp_path / "error_maps.npz", {"a": judged, "b": without})
        with np.load(tmp_path / "error_maps.npz", allow_pickle=False) as archive:
            assert archive.files == ["a"]
            np.testing.assert_array_equal(archive["a"], map_[0].numpy())


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    """Over and over: with x264's macroblock tree about every fourth file was another."""
    rng = np.random.default_rng(0)
    frames = np.kron(rng.integers(0, 255, (9, 8, 8, 3), dtype=np.uint8), np.ones((1, 8, 8, 1), np.uint8))
    written = set()
    for _ in range(15):
        run_folder.write_video(tmp_path / "v.mp4", frames, fps=8)
        written.add((tmp_path / "v.mp4").read_bytes())
    assert len(written) == 1
