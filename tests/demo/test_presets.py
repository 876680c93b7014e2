"""The choice of the model: what can be used here is offered, what cannot says why, and nothing is fetched."""

from collections.abc import Callable
from pathlib import Path

import pytest

from demo.blocks import build_page
from demo.preset_service import preset_options
from demo.run_store import RunStore
from demo.service import GenerateInput, PageError, PageService
from tests.demo.fake_studio import FakeStudio
from vggrpo.runtime import gpu, hub
from vggrpo.runtime.local_models import MODELS

ROOT = Path(__file__).parents[2]
WAN21, WAN22 = "wan2.1-t2v-1.3b", "wan2.2-ti2v-5b"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """A machine with or without a GPU, with some models lying ready."""

    def make(*, gpus: bool, ready: tuple[str, ...] = ()) -> None:
        monkeypatch.setattr(gpu, "has_gpu", lambda: gpus)
        monkeypatch.setattr(hub, "cached", lambda _source: None)
        for name in ready:
            (tmp_path / "models" / name).mkdir(parents=True)
        monkeypatch.setenv(MODELS, str(tmp_path / "models"))

    return make


def make_service(tmp_path: Path, studio: object, preset: str = "tiny") -> PageService:
    store = RunStore(root=tmp_path / "runs", examples=tmp_path / "none")
    return PageService(preset=preset, store=store, load_studio=lambda _name: studio)


def widgets(service: PageService) -> dict[str, object]:
    page = build_page(service, assets=ROOT / "assets")
    return {block.elem_id: block for block in page.blocks.values() if getattr(block, "elem_id", None)}


def test_without_a_gpu_the_embedded_model_is_all_there_is(machine: Callable[..., None], tmp_path: Path) -> None:
    machine(gpus=False, ready=(f"{WAN21}/pipeline",))
    shown = {option.name: option for option in preset_options("tiny")}
    assert list(shown) == ["tiny", WAN21, WAN22]
    assert shown["tiny"].why_not == ""
    assert shown[WAN21].why_not == f"{WAN21} needs one GPU with 24 GB, and this machine has no GPU."
    found = widgets(make_service(tmp_path, FakeStudio()))
    assert [name for name, _ in found["preset"].choices] == ["tiny"]
    assert WAN22 in found["presets-not-here"].value
    assert "no GPU" in found["presets-not-here"].value
    assert found["first-frame-section"].visible


def test_with_a_gpu_the_weights_are_asked_for(machine: Callable[..., None], tmp_path: Path) -> None:
    machine(gpus=True, ready=(f"{WAN21}/pipeline", f"{WAN21}/latent-geometry", f"{WAN22}/latent-geometry"))
    shown = {option.name: option for option in preset_options("tiny")}
    assert (shown[WAN21].why_not, shown[WAN21].can_guide, shown[WAN21].takes_first_frame) == ("", True, False)
    assert "(about 34 GB) are not on this machine" in shown[WAN22].why_not
    found = widgets(make_service(tmp_path, FakeStudio()))
    assert [name for name, _ in found["preset"].choices] == ["tiny", WAN21]


def test_choosing_a_model_shows_what_it_takes(machine: Callable[..., None], tmp_path: Path) -> None:
    """Its own steps and guidance; no first frame for text to video; no builder for an open vocabulary."""
    machine(gpus=True, ready=(f"{WAN21}/pipeline", f"{WAN22}/pipeline"))
    page = build_page(make_service(tmp_path, FakeStudio()), assets=ROOT / "assets")
    choose = next(fn.fn for fn in page.fns.values() if fn.name == "on_preset" and len(fn.outputs) == 8)
    about, steps, guidance, builder, first_section, first, guide_section, guide = choose(WAN21)
    assert (steps, guidance, first, guide) == (50, 5.0, None, 0)
    assert "832×480" in about
    assert "read from the decoded video" in about
    assert [part.visible for part in (builder, first_section, guide_section)] == [False, False, False]
    about, steps, guidance, builder, first_section, *_ = choose(WAN22)
    assert (steps, guidance, first_section.visible) == (50, 5.0, True)
    about, steps, guidance, builder, first_section, first, guide_section, _ = choose("tiny")
    assert (steps, guidance) == (20, 2.0)
    assert [part.visible for part in (builder, first_section, guide_section)] == [True, True, True]


class Listening(FakeStudio):
    """Keeps what it was asked for."""

    def generate(self, request: object, *arguments: object, **options: object) -> None:
        self.request = request
        super().generate(request, *arguments, **options)


@pytest.mark.parametrize(("ready", "space"), [((), "rgb"), ((f"{WAN22}/latent-geometry",), "latent")])
def test_rewards_are_read_where_a_model_is_for_it(
    machine: Callable[..., None], tmp_path: Path, ready: tuple[str, ...], space: str
) -> None:
    machine(gpus=True, ready=(f"{WAN22}/pipeline", *ready))
    studio = Listening()
    list(make_service(tmp_path, studio).generate(GenerateInput(prompt="an astronaut", preset=WAN22)))
    assert (studio.request.preset, studio.request.reward_space) == (WAN22, space)


def test_what_cannot_be_used_is_refused_by_name_too(machine: Callable[..., None], tmp_path: Path) -> None:
    """Endpoints take any name."""
    machine(gpus=False)
    service = make_service(tmp_path, FakeStudio())
    with pytest.raises(PageError, match="this machine has no GPU"):
        list(service.generate(GenerateInput(prompt="an astronaut", preset=WAN21)))
    with pytest.raises(PageError, match="did you mean"):
        list(service.generate(GenerateInput(prompt="an astronaut", preset="wan21-t2v-1.3b")))
    assert service.unknown_words("an astronaut", preset=WAN21) == []
    assert "astronaut" in service.unknown_words("an astronaut")
