"""``evaluate assets``. Oracle: models that tell the truth reach every target that can be reached, and each kind of
mistake is seen by its own row and no other; then the command itself on the debug preset."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vggrpo.cli import main
from vggrpo.cli.evaluating import evaluation_table, record_evaluation, shipped_weight_bytes
from vggrpo.evaluation.asset_clips import AssetModels
from vggrpo.evaluation.asset_rows import Goal, Row, show_number
from vggrpo.evaluation.assets import EvaluationProgress, HeldOutClips, PromptSeed, contact_sheet_rows, evaluate_assets
from vggrpo.evaluation.estimates import not_measured, single
from vggrpo.evaluation.object_judge import CELL, KINDS, JudgeConfig, ObjectJudge
from vggrpo.latents import video_from_frames
from vggrpo.presets import get_preset
from vggrpo.pretraining.judge import cell_shares
from vggrpo.types import Latents, SceneGeometry, WorldClip
from vggrpo.worlds import make_clip

SIZE = {"num_frames": 3, "height": 32, "width": 32}
HELD = HeldOutClips(count=6, first_seed=0, batch=4)


@dataclass
class Truth:
    """The world's clips, recognised by their frames; counts how often each part was asked."""

    clips: dict[int, WorldClip] = field(default_factory=dict)

    def clip(self, seed: int) -> WorldClip:
        if seed not in self.clips:
            self.clips[seed] = make_clip(seed, **SIZE)
        return self.clips[seed]

    def video(self, seed: int) -> Tensor:
        return video_from_frames(torch.from_numpy(self.clip(seed).rgb)[None])

    def recognise(self, video: Tensor) -> int:
        return min(self.clips, key=lambda seed: float((self.video(seed) - video).abs().mean()))


@dataclass
class TrueVae:
    """Latents hold the seed of a clip; decoding it adds a constant ``error``."""

    truth: Truth
    error: float = 0.02

    def encode_normalised(self, video: Tensor) -> Latents:
        return Latents(tensor=torch.full((1, 1, 1, 1, 1), float(self.truth.recognise(video))))

    def decode_normalised(self, latents: Latents) -> Tensor:
        return self.truth.video(int(latents.tensor.item())) + self.error


@dataclass
class TrueGeometry:
    """Φ and Φ_g that know the truth; ``scale`` of depths and cameras, ``shift`` of the scene flow in metres."""

    truth: Truth
    scale: float = 1.0
    flow_error: float = 0.0
    patch_size: int = 16
    token_dim: int = 6

    def scene(self, seed: int) -> SceneGeometry:
        true = self.truth.clip(seed).geometry.to_scene()
        cameras = true.camera_from_world.clone()
        cameras[..., :3, 3] *= self.scale
        flow = true.scene_flow * (1.0 + self.flow_error)
        return replace(true, camera_from_world=cameras, depth=self.scale * true.depth, scene_flow=flow)

    def geometry(self, images: Tensor) -> SceneGeometry:
        return self.scene(self.truth.recognise(images.transpose(1, 2) * 2.0 - 1.0))

    def __call__(self, latents: Latents) -> SceneGeometry:
        return self.scene(int(latents.tensor.item()))

    def encode_tokens(self, images: Tensor, *, upto: int) -> Tensor:
        """Mean and spread of colour in every quarter of a frame."""
        patches = images.unfold(3, 16, 16).unfold(4, 16, 16).flatten(-2)
        stats = torch.cat([patches.mean(-1), patches.std(-1)], dim=2)
        return stats.flatten(3).transpose(2, 3)

    def finish_encoder(self, tokens: Tensor, *, start: int) -> Tensor:
        return tokens


@dataclass
class TrueJudge:
    """Knows the masks of the clip in front of it."""

    truth: Truth

    def visible_pixels(self, video: Tensor) -> Tensor:
        seed = self.truth.recognise(video.transpose(0, 1)[None] * 2.0 - 1.0)
        ids = self.truth.clip(seed).object_id
        return torch.stack([cell_shares(frame, seed=seed)[1:].sum(dim=(-2, -1)) * CELL**2 for frame in ids])


def measure(
    truth: Truth,
    *,
    vae: TrueVae | None = None,
    geometry: TrueGeometry | None = None,
    latent_geometry: TrueGeometry | None = None,
    judge: TrueJudge | None = None,
    drawn: Sequence[int] | None = None,
) -> dict[str, Row]:
    """Evaluate; ``drawn`` gives the world that the video model draws instead of the prompt's."""

    def denoise(prompts: Sequence[PromptSeed]) -> Latents:
        seeds = [item.seed if drawn is None else drawn[item.seed] for item in prompts]
        return Latents(tensor=torch.tensor(seeds, dtype=torch.float32).view(-1, 1, 1, 1, 1))

    geometry = geometry or TrueGeometry(truth)
    models = AssetModels(
        vae=vae or TrueVae(truth),
        geometry=geometry,
        latent_geometry=latent_geometry or geometry,
        judge=judge,
        device=torch.device("cpu"),
    )
    evaluation = evaluate_assets(
        models,
        HELD,
        clip_of=truth.clip,
        denoise=denoise,
        weight_bytes=[40_000_000, 10_000_000],
        on_progress=lambda _: None,
    )
    return {row.key: row for row in evaluation.rows}


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth()


def targets_reached(rows: dict[str, Row]) -> dict[str, bool | None]:
    return {key: row.reached for key, row in rows.items() if row.goal is not None}


def test_models_that_tell_the_truth_reach_every_target(truth: Truth) -> None:
    rows = measure(truth, judge=TrueJudge(truth))
    assert rows["vae/psnr"].estimate.value == pytest.approx(-20 * np.log10(0.01), abs=1e-3)
    assert rows["video/camera_move"].estimate.value == 1.0
    assert rows["camera/by_truth"].estimate.value == 1.0
    # An object that is out of the picture cannot be seen; all that are visible are, and nothing else.
    assert rows["objects/judge_recall_decoded"].estimate.value == 1.0
    assert rows["objects/judge_precision_decoded"].estimate.value == 1.0
    assert rows["video/objects"].estimate.value == rows["objects/in_true"].estimate.value >= 0.8
    for key in ("phi/depth", "phi/rotation", "phi/direction", "phi/flow"):
        assert rows[key].estimate.value == pytest.approx(0.0, abs=2e-3)
    assert rows["size"].estimate.value == 50.0
    reached = targets_reached(rows)
    # Nothing divided by nothing is no ratio.
    for key in ("lgm/depth", "lgm/rotation", "lgm/direction", "lgm/flow"):
        assert rows[key].estimate.value <= 1.0 or not rows[key].estimate.is_measured
        reached.pop(key)
    assert set(reached.values()) == {True}, reached


def test_generated_clips_of_other_worlds_fail_by_prompt_but_not_by_looks(truth: Truth) -> None:
    drawn = [1, 2, 3, 4, 5, 0]
    rows = measure(truth, judge=TrueJudge(truth), drawn=drawn)
    own = [truth.clip(seed).caption for seed in range(6)]
    other = [own[index] for index in drawn]
    agree = np.mean([a.split(", ")[-1] == b.split(", ")[-1] for a, b in zip(own, other, strict=True)])
    assert rows["video/camera_move"].estimate.value == pytest.approx(agree)
    assert rows["video/objects"].estimate.value < 0.5
    assert rows["video/objects"].reached is False
    # The same clips in another order: as far from the truth as the autoencoder alone takes them.
    assert rows["frechet/generated"].estimate.value == pytest.approx(rows["frechet/decoded"].estimate.value, rel=1e-6)
    assert rows["video/frechet_ratio"].estimate.value == pytest.approx(1.0, rel=1e-6)
    assert rows["frechet/floor"].estimate.value > rows["frechet/decoded"].estimate.value


def test_errors_of_the_latent_geometry_are_told_as_a_multiple(truth: Truth) -> None:
    rows = measure(
        truth,
        geometry=TrueGeometry(truth, flow_error=0.1, scale=1.7),
        latent_geometry=TrueGeometry(truth, flow_error=-0.3, scale=0.4),
    )
    assert rows["phi/flow"].estimate.value == pytest.approx(0.1, rel=1e-3)
    assert rows["lgm/flow_error"].estimate.value == pytest.approx(0.3, rel=1e-3)
    assert rows["lgm/flow"].estimate.value == pytest.approx(3.0, rel=1e-3)
    assert rows["lgm/flow"].reached is False
    assert rows["lgm/flow"].estimate.n == sum(bool(truth.clip(seed).moving.any()) for seed in range(6))
    # The scale of a model is not trusted: it neither counts as an error of depth nor changes a camera's move.
    assert rows["phi/depth"].estimate.value == pytest.approx(0.0, abs=1e-5)
    assert rows["video/camera_move"].estimate.value == 1.0


def test_a_worse_autoencoder_is_seen(truth: Truth) -> None:
    rows = measure(truth, vae=TrueVae(truth, error=0.2))
    assert rows["vae/psnr"].estimate.value == pytest.approx(20.0, abs=1e-3)
    assert rows["vae/psnr"].reached is False


def test_without_a_judge_there_is_no_number_but_a_reason(truth: Truth) -> None:
    rows = measure(truth)
    assert not [key for key in rows if key.startswith("objects/")]
    row = rows["video/objects"]
    assert row.reached is None
    assert row.to_json()["value"] is None
    assert "no judge shipped" in str(row.to_json()["reason"])


def test_progress_counts_every_clip_and_the_sheet_shows_pairs(truth: Truth) -> None:
    reports: list[EvaluationProgress] = []
    models = AssetModels(
        vae=TrueVae(truth),
        geometry=TrueGeometry(truth),
        latent_geometry=TrueGeometry(truth),
        judge=None,
        device=torch.device("cpu"),
    )

    def denoise(prompts: Sequence[PromptSeed]) -> Latents:
        return Latents(tensor=torch.tensor([float(item.seed) for item in prompts]).view(-1, 1, 1, 1, 1))

    found = evaluate_assets(
        models, HELD, clip_of=truth.clip, denoise=denoise, weight_bytes=None, on_progress=reports.append
    )
    assert [report.done for report in reports] == [1, 2, 3, 4, 8, 9, 10, 12]
    assert {report.total for report in reports} == {12}
    assert reports[-1].seconds_left == 0.0
    assert len(found.sheet) == HELD.count
    rows = contact_sheet_rows(models, HELD.prompts()[:2], clip_of=truth.clip, denoise=denoise)
    for sheet in (found.sheet, rows):
        assert sheet[1].caption == truth.clip(1).caption
        np.testing.assert_array_equal(sheet[1].real, truth.clip(1).rgb)
        assert np.abs(sheet[1].generated.astype(int) - sheet[1].real).max() <= 3


def test_a_goal_says_at_least_or_at_most_and_never_judges_nothing() -> None:
    upper, lower = Goal(bound=1.3, at_most=True), Goal(bound=0.9, at_most=False, unit="%")
    assert (str(upper), str(lower)) == ("≤ 1.30", "≥ 90.0 %")
    assert [upper.is_reached_by(single(value, n=1, of="clips")) for value in (1.3, 1.31)] == [True, False]
    assert [lower.is_reached_by(single(value, n=1, of="clips")) for value in (0.9, 0.89)] == [True, False]
    assert upper.is_reached_by(not_measured("no clip")) is None
    assert show_number(float("nan"), unit="%") == "–"
    assert [show_number(value) for value in (-12.34, -1.234, -0.1234)] == ["−12.3", "−1.23", "−0.123"]
    table = evaluation_table([Row(key="a", part="A", name="b", estimate=not_measured("no clip"), goal=upper)], title="")
    assert "[1] no clip" in str(table.caption)


# --- The command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def judge_folder(tmp_path: Path) -> Path:
    ObjectJudge(JudgeConfig(width=8, dilations=(1,))).save(tmp_path / "judge")
    return tmp_path / "judge"


def test_the_command_leaves_numbers_and_a_sheet(
    tmp_path: Path, judge_folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGGRPO_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "made" / "evaluation"
    arguments = ["--preset", "tiny-debug", "--clips", "3", "--batch", "3", "--judge", str(judge_folder)]
    assert main(["evaluate", "assets", *arguments, "--out", str(out), "--json"]) == 0
    shown = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert shown == json.loads((out / "evaluation.json").read_text())
    assert (shown["clips"], shown["first_seed"], shown["preset"], shown["judge"]) == (3, 0, "tiny-debug", "judge")
    rows = shown["rows"]
    assert rows["camera/by_truth"]["value"] == 1.0
    assert rows["size"]["reached"] is None
    assert rows["video/camera_move"]["n"] == 3
    assert rows["vae/psnr"]["reached"] is False
    assert "too few" in rows["video/frechet_ratio"]["reason"]
    assert 0.0 <= rows["objects/judge_recall_rendered"]["value"] <= 1.0
    from PIL import Image

    with Image.open(out / "clips.png") as sheet:
        assert sheet.width > 12 * 64


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--clips", "0"], "give 1 to"),
        (["--seed", "-1"], "held-out worlds"),
        (["--seed", "999999"], "held-out worlds"),
        (["--batch", "0"], "give 1 to"),
        (["--judge", "nowhere"], "nowhere does not exist"),
        (["--adapter", "nowhere"], "nowhere does not exist"),
        (["--record"], "shipped weights"),
        (["--preset", "wan2.1-t2v-1.3b"], "embedded model"),
        (["--preset", "tinny"], "did you mean"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], complaint: str, capfd: pytest.CaptureFixture[str]) -> None:
    preset = [] if "--preset" in arguments else ["--preset", "tiny-debug"]
    assert main(["evaluate", "assets", *preset, *arguments]) == 2
    shown = capfd.readouterr()
    assert complaint in shown.err
    assert shown.err.count("\n") == 1
    assert not shown.out


def test_kinds_are_every_colour_in_every_shape() -> None:
    assert len(set(KINDS)) == len(KINDS) == 32


def test_recording_adds_the_numbers_to_the_manifest_and_nothing_else(tmp_path: Path) -> None:
    manifest = tmp_path / "MANIFEST.json"
    manifest.write_text('{"parts": {"vae": {"steps": 3}}, "evaluation": {"old": 1}}')
    folders = get_preset("tiny").folders
    assert folders is not None
    preset = replace(get_preset("tiny"), folders=replace(folders, root=tmp_path, manifest=manifest))
    sheet = np.full((24, 40, 3), (200, 40, 90), dtype=np.uint8)
    record_evaluation(preset, {"clips": 8, "rows": {}}, sheet=sheet)
    shown = np.asarray(Image.open(tmp_path / "clips.webp").convert("RGB"), dtype=float)
    np.testing.assert_allclose(shown, sheet, atol=12)
    assert json.loads(manifest.read_text()) == {
        "parts": {"vae": {"steps": 3}},
        "evaluation": {"clips": 8, "rows": {}},
    }
    (tmp_path / "tiny").mkdir()
    (tmp_path / "examples" / "one").mkdir(parents=True)
    for name in ("tiny/a.safetensors", "tiny/b.safetensors", "examples/one/latents.safetensors", "tiny/config.json"):
        (tmp_path / name).write_bytes(bytes(10))
    assert shipped_weight_bytes(preset) == [10, 10]
    assert shipped_weight_bytes(get_preset("tiny-debug")) is None
