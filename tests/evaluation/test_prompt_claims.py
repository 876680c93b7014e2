"""What prompts promise. Oracle: the scenes that the captions were composed from."""

import pytest

from vggrpo.evaluation.prompt_claims import read_claims
from vggrpo.worlds.scenes import sample_scene


def test_captions_promise_what_their_scene_holds() -> None:
    for seed in range(300):
        scene = sample_scene(seed)
        claims = read_claims(scene.caption)
        assert claims.camera_move == scene.camera.name
        assert claims.objects == tuple((item.words.colour, item.words.shape) for item in scene.objects)


@pytest.mark.parametrize(
    ("prompt", "move", "objects"),
    [
        ("A RED sphere, the camera pans left.", "pan left", (("red", "sphere"),)),
        ("a red dog and a blue-ish cube on a grey floor", None, ()),
        ("a green cone, the camera pans left, the camera cranes up", None, (("green", "cone"),)),
        ("the camera pans", None, ()),
        ("", None, ()),
    ],
)
def test_free_prompts_promise_only_what_they_say(prompt: str, move: str | None, objects: tuple) -> None:
    claims = read_claims(prompt)
    assert (claims.camera_move, claims.objects) == (move, objects)
