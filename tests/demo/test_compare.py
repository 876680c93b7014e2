"""The Compare tab over HTTP and over its service, on the debug preset's real models."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import gradio_client
import numpy as np
import pytest
from gradio_client.exceptions import AppError

from demo.blocks import build_page, opening
from demo.compare_service import (
    BASE_MODEL,
    LORA_FILE,
    UPLOAD,
    CompareInput,
    CompareService,
    ManyReport,
    SideInput,
)
from demo.pair_results import ComparisonResult, PairResult
from demo.panels.compare import first_adapter, model_choices, opening_pair
from demo.run_store import RunStore
from demo.service import PageError, PageService, StepReport
from tests.demo.make_adapter import write_adapter
from tests.demo.synthetic_run import write_run
from vggrpo.pretraining.video import VideoArchitecture
from vggrpo.runtime import run_folder

PROMPT = "a red sphere on a grey checkered floor, the camera orbits left"
SHIPPED = SideInput(model="shipped.first")
OTHER_MODEL = VideoArchitecture(
    num_attention_heads=2, attention_head_dim=32, num_layers=2, ffn_dim=64, text_dim=32, text_layers=1
)


def write_pair(folder: Path) -> Path:
    """A shipped pair: the tuned side's rewards are higher by 0.01."""
    for side in ("base", "tuned"):
        write_run(folder / side, num_frames=5, size=24)
    rewards = json.loads((folder / "tuned" / "rewards.json").read_text())
    rewards["motion_smoothness"]["value"] += 0.01
    (folder / "tuned" / "rewards.json").write_text(json.dumps(rewards))
    sides = {side: {"label": label} for side, label in (("base", "Base model"), ("tuned", "first <b>"))}
    (folder / "pair.json").write_text(json.dumps(sides))
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> CompareService:
    folder = tmp_path_factory.mktemp("page")
    write_run(folder / "examples" / "single", num_frames=5, size=24)
    write_pair(folder / "examples" / "pairs" / "shipped-pair")
    write_adapter(folder / "adapters" / "first")
    store = RunStore(root=folder / "runs", examples=folder / "examples")
    return CompareService(PageService(preset="tiny-debug", store=store), adapters=folder / "adapters")


@pytest.fixture(scope="module")
def client(service: CompareService) -> Iterator[gradio_client.Client]:
    page = build_page(service.service, assets=service.service.store.examples.parent)
    _, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield gradio_client.Client(url, verbose=False)
    page.close()


def pair_input(**changes: object) -> CompareInput:
    return CompareInput(**({"base": SideInput(), "tuned": SHIPPED, "prompt": PROMPT, "seed": 3} | changes))


def last(messages: Iterator[object]) -> object:
    """What a job ends with."""
    return list(messages)[-1]


def test_compare_makes_a_pair_whose_sides_are_generations_of_their_own(
    client: gradio_client.Client, service: CompareService
) -> None:
    job = client.submit(prompt=PROMPT, seed=3, adapter="shipped.first", api_name="/compare")
    answer = job.result(timeout=120)
    assert {step["side"] for step in job.outputs() if step["state"] == "running"} >= {"base", "tuned"}
    folder = service.service.store.find_pair(answer["pair"])
    assert sorted(path.name for path in folder.iterdir()) == ["base", "pair.json", "tuned"]
    assert (answer["base"]["label"], answer["tuned"]["label"]) == ("Base model", "first (shipped)")
    alone = client.predict(prompt=PROMPT, seed=3, api_name="/generate")
    assert answer["base"]["rewards"] == alone["rewards"]
    assert answer["tuned"]["rewards"] != alone["rewards"]
    for side in ("base", "tuned"):
        with urllib.request.urlopen(answer[side]["files"]["video.mp4"]) as response:
            assert response.read() == (folder / side / "video.mp4").read_bytes()
    manifests = [json.loads((folder / side / "manifest.json").read_text()) for side in ("base", "tuned")]
    assert [manifest["adapter"] for manifest in manifests] == [None, "first"]
    assert {manifest["seed"] for manifest in manifests} == {3}
    with urllib.request.urlopen(answer["page"]) as response:
        assert response.status == 200


def test_an_uploaded_adapter_is_used(client: gradio_client.Client, service: CompareService) -> None:
    file = gradio_client.handle_file(service._adapters / "first" / LORA_FILE)
    uploaded = client.predict(prompt=PROMPT, seed=3, adapter_file=file, api_name="/compare")
    shipped = client.predict(prompt=PROMPT, seed=3, adapter="shipped.first", api_name="/compare")
    assert uploaded["tuned"]["label"] == LORA_FILE
    assert uploaded["tuned"]["rewards"] == shipped["tuned"]["rewards"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adapter.bin", "not a .safetensors file"),
        ("damaged.safetensors", "damaged"),
        ("other.safetensors", "does not fit"),
        ("large.safetensors", "larger than 64 MB"),
    ],
)
def test_a_file_that_is_no_adapter_of_this_model_is_refused_in_one_line(
    service: CompareService, tmp_path: Path, name: str, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x80\x04 pickled")
    if name.startswith("large"):
        with path.open("r+b") as file:
            file.truncate(65 * 2**20)
    if name.startswith("other"):
        folder = write_adapter(tmp_path / "other", architecture=OTHER_MODEL)
        path.write_bytes((folder / LORA_FILE).read_bytes())
    before = set(service.service.store.root.iterdir())
    with pytest.raises(PageError, match=message) as caught:
        last(service.pair(pair_input(tuned=SideInput(model=UPLOAD), upload=path)))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert name in str(caught.value)
    assert set(service.service.store.root.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuned": SideInput()}, "Both sides are the same"),
        ({"tuned": SideInput(model="shipped.none")}, "no adapter 'shipped.none'"),
        ({"tuned": SideInput(model="../first")}, "no adapter"),
        ({"tuned": SideInput(model=UPLOAD)}, "Upload a LoRA"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"seed": -1}, "seed"),
    ],
)
def test_mistakes_are_one_line(service: CompareService, changes: dict[str, object], message: str) -> None:
    with pytest.raises(PageError, match=message) as caught:
        last(service.pair(pair_input(**changes)))
    assert "\n" not in str(caught.value)


def test_the_endpoint_names_mistakes(client: gradio_client.Client) -> None:
    with pytest.raises(AppError, match="Both sides are the same"):
        client.predict(prompt=PROMPT, api_name="/compare")


def test_reward_guidance_can_be_a_side(service: CompareService) -> None:
    pair = last(service.pair(pair_input(tuned=SideInput(guided=True))))
    assert isinstance(pair, PairResult)
    assert pair.tuned.label == "Base model + reward guidance"
    manifests = [json.loads((run.folder / "manifest.json").read_text()) for run in (pair.base.run, pair.tuned.run)]
    assert not manifests[0]["reward_guidance"]
    assert manifests[1]["reward_guidance"]


def test_closing_a_job_stops_it_and_keeps_nothing(service: CompareService) -> None:
    before = set(service.service.store.root.iterdir())
    job = service.pair(pair_input(steps=50))
    for message in job:
        if isinstance(message, StepReport) and message.phase == "denoise":
            break
    job.close()
    assert isinstance(last(service.pair(pair_input(seed=9))), PairResult)  # the next one waits for the stopped one
    after = set(service.service.store.root.iterdir()) - before
    assert len(after) == 1


def test_many_prompts_are_a_job_with_partial_results_and_a_file(service: CompareService) -> None:
    messages = list(service.many(pair_input(seed=0), count=6))
    result = messages[-1]
    assert isinstance(result, ComparisonResult)
    assert result.is_complete
    assert len(result.prompts) == 6
    partial = [message.partial for message in messages if isinstance(message, ManyReport) and message.partial]
    for one in partial:
        assert one.asked == 6
        np.testing.assert_allclose(one.rewards[0].base, result.rewards[0].base[: len(one.prompts)], rtol=1e-6)
    folder = service.service.store.find_comparison(result.comparison_id)
    content = run_folder.read_json(folder / "comparison.json")
    motion = next(reward for reward in result.rewards if reward.name == "motion_smoothness")
    assert content["paired"]["motion_smoothness"]["mean"] == motion.mean
    differences = motion.tuned - motion.base
    assert motion.mean == pytest.approx(float(np.nanmean(differences)), abs=1e-6)


@pytest.mark.parametrize("count", [1, 65])
def test_too_few_or_too_many_prompts_are_refused(service: CompareService, count: int) -> None:
    with pytest.raises(PageError, match="give 2 to 64"):
        service.many(pair_input(), count=count)


def test_many_prompts_can_be_cancelled(service: CompareService) -> None:
    job = service.many(pair_input(steps=50), count=64)
    started = time.monotonic()
    for message in job:
        if isinstance(message, ManyReport):
            break
        assert time.monotonic() - started < 300
    before = set(service.service.store.root.iterdir())
    job.close()
    last(service.pair(pair_input(seed=10)))
    assert len(set(service.service.store.root.iterdir()) - before) == 1


def test_the_lists_hold_the_base_what_ships_what_was_trained_and_an_upload(
    service: CompareService, tmp_path: Path
) -> None:
    class Trained:
        key, label, path = "job-1", "my fine-tune", tmp_path

    class Shared(Trained):
        key = "job-2"

    class Training:
        def adapters(self) -> list[Trained]:
            return [Trained()]

        def adapter(self, key: str) -> Trained:
            if key != "job-2":
                raise PageError("this fine-tune is not here any more")
            return Shared()

    with_training = CompareService(service.service, adapters=service._adapters, training=Training())
    keys = [key for _, key in model_choices(with_training)]
    assert keys == [BASE_MODEL, "shipped.first", "job-1", UPLOAD]
    by_link = [key for _, key in model_choices(with_training, also="job-2")]
    assert by_link == [BASE_MODEL, "shipped.first", "job-1", "job-2", UPLOAD]
    assert [key for _, key in model_choices(with_training, also="job-3")] == keys
    with pytest.raises(PageError, match="no adapter 'job-3'"):
        with_training.find_model("job-3")
    assert first_adapter(model_choices(with_training)) == "shipped.first"
    empty = CompareService(service.service, adapters=tmp_path / "none")
    assert first_adapter(model_choices(empty)) == BASE_MODEL


def test_a_link_opens_its_pair_and_frame_and_leaves_the_other_stage_alone(service: CompareService) -> None:
    notice, stage, prompt, seed = opening_pair(service, {"pair": "shipped-pair", "frame": "3"})
    assert notice == ""
    assert (stage["id"], stage["frame"], stage["facts"][0]) == ("shipped-pair", 3, "Example")
    manifest = json.loads((service.service.store.examples / "pairs/shipped-pair/base/manifest.json").read_text())
    assert (prompt, seed) == (manifest["prompt"], manifest["seed"])
    _, single, _, _ = opening(service.service, {"pair": "shipped-pair"})
    assert not isinstance(single.get("id"), str)


def test_an_empty_visit_shows_the_first_shipped_pair(service: CompareService) -> None:
    _, stage, prompt, seed = opening_pair(service, {})
    assert stage["id"] == "shipped-pair"
    # What the visitor may have typed by then stays; the form begins with the pair's own words.
    assert (prompt, seed) == (gr.skip(), gr.skip())
    page = build_page(service.service, assets=service.service.store.examples.parent)
    form = {block.elem_id: block.value for block in page.blocks.values() if isinstance(block, gr.Textbox | gr.Number)}
    run = service.open_pair("shipped-pair").base.run
    assert (form["compare-prompt"], form["compare-seed"]) == (run.prompt, run.seed)


def test_a_link_to_a_pair_that_is_gone_says_so(service: CompareService) -> None:
    assert "not here any more" in opening_pair(service, {"pair": "A" * 22})[0]


def test_one_side_opens_on_the_stage_of_a_run(service: CompareService) -> None:
    _, stage, _, _ = opening(service.service, {"run": "shipped-pair.tuned"})
    assert stage["id"] == "shipped-pair.tuned"


@pytest.mark.parametrize("name", ["shipped-pair.other", "../shipped-pair.base", "single.base", "..base", ".base"])
def test_no_name_of_a_side_leads_elsewhere(service: CompareService, name: str) -> None:
    with pytest.raises(PageError):
        service.service.open_run(name)


def test_a_sweep_keeps_the_page_files_of_shipped_pairs(service: CompareService) -> None:
    store = service.service.store
    kept, gone = store.page_files("shipped-pair.base"), store.page_files(f"{'Z' * 22}.base")
    store.sweep()
    assert kept.is_dir()
    assert not gone.exists()
