"""``evaluate`` of adapters on the debug preset. Oracles: ``generate`` of the same seed, the files that it reads."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.demo.make_adapter import write_adapter
from tests.real_models import WAN21, WAN21_1_3B, small_transformer, write_geometry, write_wan21
from vggrpo.cli.contestant_choice import choose_entrants, require_unseen
from vggrpo.cli.contesting import unguided
from vggrpo.cli.evaluate_commands import EvaluateAdapters
from vggrpo.evaluation import results
from vggrpo.evaluation.contest.question import held_out_worlds
from vggrpo.evaluation.judges import MEASURES
from vggrpo.evaluation.results import read_result
from vggrpo.grpo.defaults import training_defaults
from vggrpo.latent_geometry.foundation.registry import build_geometry, save_geometry
from vggrpo.policy.adapter import LoraSettings, add_adapter, save_adapter
from vggrpo.presets import ASSETS, get_preset
from vggrpo.runtime.config_file import write_config
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.latents_file import read_latents
from vggrpo.runtime.run_folder import read_json, write_json
from vggrpo.runtime.video_file import write_video
from vggrpo.worlds import make_clip

DEBUG = ("--preset", "tiny-debug")
QUICK = (*DEBUG, "--quick", "--repeats", "1")
COMMAND = EvaluateAdapters(preset="tiny-debug")
PRESET = get_preset("tiny-debug")


def make_run(folder: Path, *, prompts: tuple[str, ...] = ("a red sphere",), **settings: object) -> Path:
    """What `train` leaves, as far as a comparison reads it."""
    write_adapter(folder / "adapter")
    write_config(folder, replace(training_defaults("tiny-debug"), **settings))  # type: ignore[arg-type]
    write_json(folder / "prompts.json", {"training": list(prompts), "evaluation": ["a blue cube"]})
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "vggrpo", iterations=5)


@pytest.fixture(scope="module")
def quick(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one quick comparison; one video of each prompt spares half of the time."""
    from vggrpo.cli import main

    out = tmp_path_factory.mktemp("quick") / "out"
    words = ["evaluate", *QUICK, "--contestants", f"vggrpo={trained}", "guidance", "blurred", "--out", str(out)]
    assert main(words) == 0
    return out


def test_quick_leaves_the_whole_report(quick: Path) -> None:
    result = read_result(quick / "contest.json", kind="contest")
    assert result.provenance.command.startswith("python -m vggrpo evaluate --preset tiny-debug")
    assert {"vae", "transformer", "latent_geometry", "vggrpo"} <= result.provenance.weights.keys()
    content = json.loads(json.dumps(result.content))
    assert [one["name"] for one in content["contestants"]] == ["base", "vggrpo", "guidance", "blurred"]
    assert content["contestants"][1]["note"] == "5 iterations × 2 groups × 4 videos"
    told = {(row["contestant"], row["measure"], row["clips"]) for row in content["rows"]}
    names = [measure.name for measure in MEASURES]
    wanted = ("base", "vggrpo", "guidance", "blurred", "true")
    assert {(who, name, g) for who in wanted for name in names for g in ("all", "static", "dynamic")} <= told
    for row in content["rows"]:
        assert row["judged"] + sum(row["reasons"].values()) == row["of"]
        assert (row["mean"]["value"] is None) == (row["judged"] == 0)
    assert {prompt["kind"] for prompt in content["question"]["prompts"]} == {"static", "dynamic"}
    page = (quick / "contest.md").read_text()
    assert "## Goals of VGGRPO, static and dynamic worlds" in page
    assert not (quick / "lock").exists()


def test_the_blurred_contestant_shows_the_videos_of_base_softer(quick: Path) -> None:
    """A Gaussian of 0.4 pixels takes a few percent of the Laplacian's spread; Φ_g reads latents and sees nothing."""
    places = [quick / "contestants" / name for name in ("base", "blurred")]
    for file in (places[0] / "latents").iterdir():
        assert file.read_bytes() == (places[1] / "latents" / file.name).read_bytes()
    base, soft = (read_json(place / "findings" / "0000-00.json")["findings"] for place in places)
    assert isinstance(base, dict)
    assert isinstance(soft, dict)
    assert 0.5 < soft["sharpness"]["value"] / base["sharpness"]["value"] < 0.99
    assert soft["reward/motion_smoothness"]["value"] is None
    assert "blurred after decoding" in soft["reward/motion_smoothness"]["reason"]


def test_videos_are_those_that_generate_draws(quick: Path, trained: Path, run: Callable, tmp_path: Path) -> None:
    """The last video of the batch, with the adapter: its noise is the question's, its prompt the world's caption."""
    prompt = held_out_worlds(4, seed=0)[3].text
    seed = 3 * 64
    alone = ("generate", *DEBUG, "--prompt", prompt, "--seed", seed, "--adapter", trained / "adapter")
    assert run(*alone, "--out", tmp_path / "one").code == 0
    kept = read_latents(quick / "contestants" / "vggrpo" / "latents" / "0003-00.safetensors").latents.tensor
    drawn = read_latents(tmp_path / "one" / "latents.safetensors").latents.tensor
    torch.testing.assert_close(kept, drawn, rtol=2e-3, atol=2e-3)
    base = read_latents(quick / "contestants" / "base" / "latents" / "0003-00.safetensors").latents.tensor
    assert not torch.allclose(base, drawn, atol=1e-2)


def test_the_same_command_goes_on_and_records(
    quick: Path, trained: Path, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    before = {path: path.stat().st_mtime_ns for path in (quick / "contestants").rglob("*.*")}
    again = next((quick / "contestants" / "guidance" / "findings").iterdir())
    was = again.read_bytes()
    again.unlink()
    words = ("evaluate", *QUICK, "--contestants", f"vggrpo={trained}", "guidance", "blurred", "--out", quick)
    shown = run(*words, "--record", "--name", "small", "--json")
    assert shown.code == 0, shown.err
    assert again.read_bytes() == was
    after = {path: path.stat().st_mtime_ns for path in (quick / "contestants").rglob("*.*")}
    assert {path for path in before if before[path] != after[path]} == {
        again,
        again.parents[1] / "features" / f"{again.stem}.npy",
    }
    recorded = read_result(tmp_path / "results" / "small.json", kind="contest")
    printed = json.loads(shown.out.splitlines()[-1])
    assert printed["result"] == recorded.content
    assert (tmp_path / "results" / "small.md").read_text().startswith("# tiny-debug: 2 static and 2 dynamic")
    assert recorded.provenance.seconds > read_result(quick / "contest.json", kind="contest").provenance.seconds / 2


def test_the_folder_answers_one_question(quick: Path, trained: Path, run: Callable, tmp_path: Path) -> None:
    words = ("evaluate", *QUICK, "--out", quick, "--contestants")
    assert "its repeats differ;" in run(*words, f"vggrpo={trained}", "--repeats", 2).complaint
    other = make_run(tmp_path / "other")
    (other / "adapter" / "pytorch_lora_weights.safetensors").write_bytes(
        (trained / "adapter" / "pytorch_lora_weights.safetensors").read_bytes()[:-1] + b"\x01"
    )
    assert "holds videos of another vggrpo" in run(*words, f"vggrpo={other}").complaint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--contestants", "vggrpo"], "give NAME=PATH of an adapter, or a word: guidance, blurred"),
        (["--contestants", "base=ADAPTER"], "base, true, guidance and blurred are taken"),
        (["--contestants", "a/b=ADAPTER"], "no name for a contestant"),
        (["--contestants", "a=ADAPTER", "a=ADAPTER"], "Two contestants are called 'a'"),
        (["--contestants", "a=nowhere"], "nowhere holds no adapter of a"),
        (["--contestants", "a=TEXT"], "is no safetensors file"),
        (["--contestants", "guidance", "--reward-guidance-every", 9], "never acts in 2 steps"),
        (["--contestants", "guidance", "--reward-guidance", -1], "scale is -1"),
        (["--contestants", "blurred", "--blur", 0], "--blur is 0; give pixels, more than 0"),
        (["--count", 0], "0 prompts were asked for"),
        (["--seed", 99], "The seed is 99"),
        (["--repeats", 0], "0 videos of each prompt"),
        (["--batch", 0], "A batch of 0"),
        (["--static-prompts", "nowhere.txt"], "nowhere.txt does not exist"),
        (["--static-prompts", "TEXT", "--count", 3], "--count is of held-out worlds"),
        (["--true-videos", "nowhere"], "nowhere does not exist"),
        (["--lineup", "nowhere"], "nowhere is no folder"),
        (["--judge-weights", "nowhere"], "nowhere does not exist"),
        (["--out", "TEXT"], "is a file"),
        (["--record", "--name", "../x"], "is no file name"),
        (["--preset", "wan2.1-t2v-1.3b"], "give --static-prompts, --dynamic-prompts"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    run: Callable, trained: Path, tmp_path: Path, options: list[object], words: str
) -> None:
    text = tmp_path / "lines.safetensors"
    text.write_text("a red sphere on a grey tiled floor, the camera is static\n")
    places = {"ADAPTER": str(trained), "TEXT": str(text)}
    given = [re.sub("ADAPTER|TEXT", lambda found: places[found[0]], str(option)) for option in options]
    out = tmp_path / "out"
    preset = () if "--preset" in given else DEBUG
    place = () if "--out" in given else ("--out", out)
    assert words in run("evaluate", *preset, *given, *place).complaint
    assert not out.exists()


def test_the_adapter_that_ships_takes_part_as_what_it_was_trained_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fresh clone nothing else is trained. Oracle: the MANIFEST, and files that change one setting."""
    monkeypatch.chdir(tmp_path)
    manifest = json.loads((ASSETS / "MANIFEST.json").read_text(encoding="utf-8"))
    part = manifest["parts"]["tuned"]
    tiny = get_preset("tiny")
    found = choose_entrants(EvaluateAdapters(preset="tiny"), tiny)
    assert [entrant.contestant.name for entrant in found.entrants] == ["base", "vggrpo", "guidance", "blurred"]
    contestant = found.entrants[1].contestant
    assert contestant.note == f"{part['steps']} iterations × 4 groups × 8 videos"
    assert contestant.videos == part["steps"] * 4 * 8
    digest = manifest["files"]["adapters/vggrpo-tiny/pytorch_lora_weights.safetensors"]["sha256"]
    assert contestant.about == {"adapter": digest[:12]}
    assert len(found.absent) == 5
    lineup = tmp_path / "lineup"
    lineup.mkdir()
    (lineup / "same.yaml").write_text("objective: grpo\niterations: 7\n")
    (lineup / "other.yaml").write_text("learning_rate: 0.001\n")
    found = choose_entrants(EvaluateAdapters(preset="tiny", lineup=lineup), tiny)
    assert [entrant.contestant.name for entrant in found.entrants] == ["base", "same", "guidance", "blurred"]
    assert len(choose_entrants(replace(COMMAND, lineup=lineup), PRESET).absent) == 2


def test_a_lineup_is_who_is_trained_and_how_to_train_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lineup = tmp_path / "entries"
    lineup.mkdir()
    command = "python -m vggrpo train --config entries/sft.yaml --out runs/entries/sft"
    (lineup / "sft.yaml").write_text(f"# SFT on steady clips\n# {command}\nobjective: sft\n")
    (lineup / "dpo.yaml").write_text("# DPO\nobjective: dpo\n")
    (lineup / "late.yaml").write_text("# Late\n")
    (lineup / "large.yaml").write_text("# Large\n")
    make_run(tmp_path / "runs" / "entries" / "dpo", objective="dpo", iterations=40)
    write_json(tmp_path / "runs" / "entries" / "dpo" / "status.json", {"state": "stopped", "iteration": 3})
    make_run(tmp_path / "runs" / "entries" / "large")
    write_config(tmp_path / "runs" / "entries" / "large", training_defaults("wan2.1-t2v-1.3b"))
    found = choose_entrants(replace(COMMAND, lineup=lineup), PRESET)
    assert [one.contestant.name for one in found.entrants] == ["base", "dpo", "guidance", "blurred"]
    dpo = found.entrants[1].contestant
    assert (dpo.title, dpo.objective, dpo.videos, dpo.seen) == ("DPO", "dpo", 3 * 2 * 4, frozenset({"sampson"}))
    assert any(one == f"SFT on steady clips is not trained yet: `{command}`" for one in found.absent)
    assert any(one.startswith("Late is not trained yet: `python -m vggrpo train --config") for one in found.absent)
    assert any(one.startswith("Large is trained on wan2.1-t2v-1.3b") for one in found.absent)


def test_an_adapter_that_came_alone_takes_part(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes((trained / "adapter" / "pytorch_lora_weights.safetensors").read_bytes())
    alone, run = choose_entrants(replace(COMMAND, contestants=(f"a={file}", f"b={trained}")), PRESET).entrants[1:]
    assert (alone.contestant.objective, alone.contestant.videos, alone.contestant.note) == (None, None, None)
    assert (run.contestant.objective, run.contestant.videos) == ("grpo", 5 * 2 * 4)
    assert alone.contestant.about == run.contestant.about  # the same adapter draws the same videos


def test_a_prompt_that_was_trained_on_is_refused(trained: Path) -> None:
    entrants = choose_entrants(replace(COMMAND, contestants=(f"a={trained}",)), PRESET)
    require_unseen(entrants, frozenset({"a green cone"}))
    with pytest.raises(UserError, match=r"a was trained on 1 of these prompts, for example 'a red sphere'"):
        require_unseen(entrants, frozenset({"a red sphere", "a green cone"}))


def test_an_adapter_of_another_preset_is_refused(trained: Path) -> None:
    command = replace(COMMAND, preset="tiny", contestants=(f"a={trained}",))
    with pytest.raises(UserError, match="was trained on tiny-debug"):
        choose_entrants(command, get_preset("tiny"))


def test_without_a_latent_geometry_model_nothing_is_guided() -> None:
    entrants = choose_entrants(replace(COMMAND, contestants=("guidance",)), PRESET)
    found = unguided(entrants)
    assert [one.contestant.name for one in found.entrants] == ["base"]
    assert found.absent == (*entrants.absent, found.absent[-1])
    assert "reward guidance alone needs a latent geometry model" in found.absent[-1]


@pytest.mark.slow
def test_a_released_preset_is_compared_by_the_same_command(run: Callable, tmp_path: Path) -> None:
    """Prompts and true videos of the user's own, no Φ_g, another geometry model as the judge. Oracle: an adapter that
    changes nothing differs from base in nothing."""
    transformer = small_transformer(WAN21_1_3B)
    add_adapter(transformer, LoraSettings(rank=2, alpha=2.0), seed=0)
    save_adapter(transformer, tmp_path / "same")
    judge = write_geometry(tmp_path / "judge")
    save_geometry(build_geometry("any4d", random_seed=3, size=judge), judge)
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(2):
        clip = make_clip(number, num_frames=40, height=64, width=96, jitter=False)
        write_video(videos / f"{number}.mp4", clip.rgb, fps=16)
    for kind, thing in (("static", "cube"), ("dynamic", "river")):
        (tmp_path / kind).write_text("".join(f"a {colour} {thing}\n" for colour in ("red", "blue")))
    size = [word for side in ("height", "width", "frames") for word in (f"--{side}", WAN21[side])]
    models = ("--model-folder", write_wan21(tmp_path / "wan"), "--geometry-weights", write_geometry(tmp_path / "phi"))
    asked = ("--static-prompts", tmp_path / "static", "--dynamic-prompts", tmp_path / "dynamic", "--repeats", 1)
    judges = ("--judge-geometry", "any4d", "--judge-weights", judge, "--true-videos", videos)
    who = ("--contestants", f"same={tmp_path / 'same'}", "--champion", "same", "--steps", 2, "--out", tmp_path / "out")
    shown = run("evaluate", "--preset", WAN21["preset"], *size, *models, *asked, *judges, *who, "--json")
    assert shown.code == 0, shown.err
    assert "rewards of training are left out" in shown.err
    content = json.loads(shown.out.splitlines()[-1])["result"]
    rows = {(row["contestant"], row["measure"], row["clips"]): row for row in content["rows"]}
    assert rows["same", "sharpness", "all"]["difference"]["value"] == 0.0
    assert rows["same", "frechet", "all"]["difference"]["value"] == 0.0
    assert rows["true", "sharpness", "all"]["of"] == 4
    assert rows["base", "reward/motion_smoothness", "all"]["judged"] == 0
    assert {prompt["text"] for prompt in content["question"]["prompts"]} >= {"a red cube", "a blue river"}


def test_times_add_up(quick: Path) -> None:
    assert float(str(read_json(quick / "seconds.json")["seconds"])) > 0.0
