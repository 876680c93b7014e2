"""Captions tell the truth, in words that the embedded model knows; cameras move as they are called."""

import re

import numpy as np
import pytest

from vggrpo.worlds import FIRST_TRAINING_SEED, cameras, sample_scene, vocabulary
from vggrpo.worlds.cameras import JITTER_SHARE, CameraMove, sample_camera_move

NUM_FRAMES = 17


def steady_move(name: str) -> CameraMove:
    """A drawn move of that name without jitter."""
    for seed in range(1000):
        move = sample_camera_move(np.random.default_rng(seed), jitter=False)
        if move.name == name:
            return move
    raise AssertionError(f"{name} was never drawn")


def last_from_first(move: CameraMove) -> np.ndarray:
    """Where the last camera stands, in the frame of the first: x right, y down, z forward."""
    placements = move.scene_from_camera(NUM_FRAMES)
    return np.linalg.inv(placements[0]) @ placements[-1]


def test_every_caption_is_made_of_known_words() -> None:
    known = set(vocabulary.all_words())
    for seed in range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + 500):
        caption = sample_scene(seed).caption
        assert set(caption.replace(",", " ,").split()) <= known
        assert vocabulary.unknown_words(caption) == []


def test_captions_are_the_promised_sentence() -> None:
    words = vocabulary.ObjectWords
    caption = vocabulary.compose_caption(
        (words(colour="orange", shape="sphere", motion="hop"), words(colour="blue", shape="cube")),
        floor_colour="grey",
        floor_pattern="checkered",
        camera_move="orbit left",
    )
    assert caption == (
        "an orange sphere and a blue cube on a grey checkered floor, the orange sphere hops, the camera orbits left"
    )


def test_every_word_is_used_by_some_caption() -> None:
    """Nothing stands in the vocabulary that no training clip can teach."""
    used = set()
    for seed in range(3000):
        used.update(vocabulary.split_words(sample_scene(seed).caption))
    assert used == set(vocabulary.all_words())


def test_unknown_words_are_named_once_and_in_order() -> None:
    prompt = "A purple DRAGON flies over a red cube, the dragon breathes fire!"
    assert vocabulary.unknown_words(prompt) == ["dragon", "flies", "over", "breathes", "fire"]


def test_a_caption_says_exactly_what_is_there() -> None:
    for seed in range(200):
        scene = sample_scene(seed)
        nouns = re.findall(r"\b(?:a|an) (\w+ \w+)(?= and| on)", scene.caption)
        assert nouns == [item.words.noun for item in scene.objects]
        movers = [item.words.noun for item in scene.objects if item.moves]
        clauses = re.findall(r", the (\w+ \w+) (?:slides|hops|spins)", scene.caption)
        assert clauses == movers
        assert len({item.words.colour for item in scene.objects}) == len(scene.objects)


def test_objects_are_named_from_left_to_right_and_do_not_meet() -> None:
    for seed in range(200):
        items = sample_scene(seed).objects
        places = [item.position for item in items]
        assert [x for x, _ in places] == sorted(x for x, _ in places)
        for one in range(len(items)):
            for other in range(one):
                distance = np.linalg.norm(np.subtract(places[one], places[other]))
                assert distance > 0.5 * (items[one].size + items[other].size)


def test_objects_stay_on_or_above_the_ground() -> None:
    for seed in range(200):
        for item in sample_scene(seed).objects:
            heights = [-item.scene_from_object(frame)[1, 3] for frame in range(NUM_FRAMES)]
            assert min(heights) == pytest.approx(item.size)


@pytest.mark.parametrize(
    ("name", "axis", "sign"),
    [
        ("orbit left", 0, -1),
        ("orbit right", 0, 1),
        ("truck left", 0, -1),
        ("truck right", 0, 1),
        ("dolly in", 2, 1),
        ("dolly out", 2, -1),
        ("crane up", 1, -1),
        ("crane down", 1, 1),
    ],
)
def test_the_camera_goes_where_its_name_says(name: str, axis: int, sign: int) -> None:
    move = last_from_first(steady_move(name))
    assert sign * move[axis, 3] > 0.3
    turns = np.linalg.norm(move[:3, :3] - np.eye(3)) > 0.1
    assert turns == name.startswith("orbit")
    if name.startswith(("truck", "dolly")):  # along one of the camera's own axes, and along no other
        np.testing.assert_allclose(np.delete(move[:3, 3], axis), 0.0, atol=1e-9)


@pytest.mark.parametrize(("name", "sign"), [("pan left", -1), ("pan right", 1)])
def test_a_pan_turns_in_place(name: str, sign: int) -> None:
    move = last_from_first(steady_move(name))
    np.testing.assert_allclose(move[:3, 3], 0.0, atol=1e-12)
    assert sign * move[0, 2] > 0.2  # where the last camera looks, seen from the first: to its left or right


def test_a_static_camera_stands() -> None:
    np.testing.assert_allclose(last_from_first(steady_move("static")), np.eye(4), atol=1e-12)


@pytest.mark.parametrize("name", [name for name in vocabulary.CAMERA_MOVES if name != "static"])
def test_moves_without_jitter_have_constant_speed(name: str) -> None:
    placements = steady_move(name).scene_from_camera(NUM_FRAMES)
    speed = np.linalg.norm(np.diff(placements[:, :3, 3], axis=0), axis=-1)
    np.testing.assert_allclose(speed, speed.mean(), atol=1e-9)
    turns = placements[:-1, :3, :3].transpose(0, 2, 1) @ placements[1:, :3, :3]
    np.testing.assert_allclose(turns, np.broadcast_to(turns[0], turns.shape), atol=1e-9)


def test_every_move_is_drawn() -> None:
    drawn = {sample_camera_move(np.random.default_rng(seed)).name for seed in range(400)}
    assert drawn == set(vocabulary.CAMERA_MOVES)


def test_the_promised_share_of_clips_is_handheld() -> None:
    shaken = [sample_scene(seed).camera.jitter_metres > 0 for seed in range(2000)]
    assert np.mean(shaken) == pytest.approx(JITTER_SHARE, abs=0.04)  # three and a half standard errors
    assert all(sample_scene(seed, jitter=True).camera.jitter_metres > 0 for seed in range(50))
    assert not any(sample_scene(seed, jitter=False).camera.jitter_metres for seed in range(50))


def test_jitter_changes_the_camera_and_nothing_else() -> None:
    for seed in range(50):
        calm, shaken = sample_scene(seed, jitter=False), sample_scene(seed, jitter=True)
        assert calm.objects == shaken.objects
        assert calm.caption == shaken.caption
        difference = shaken.camera.scene_from_camera(NUM_FRAMES) - calm.camera.scene_from_camera(NUM_FRAMES)
        centres = np.linalg.norm(difference[:, :3, 3], axis=-1)
        # √3 directions, a strength of 0.4 to 1, and the chance of 17 frames.
        assert 0.3 < centres.mean() / cameras.JITTER_METRES < 2.2


def test_scenes_are_functions_of_their_seed() -> None:
    assert sample_scene(3) == sample_scene(3)
    assert len({sample_scene(seed).caption for seed in range(50)}) > 45


def test_jitter_sways_with_the_stated_strength_and_rhythm() -> None:
    """Variance over seeds and time against the closed form; the spectrum against the stated periods."""
    fewest, most = cameras.SWAY_PERIODS
    sway = np.stack([cameras._sway(seed, num_frames=64) for seed in range(300)])
    assert sway.mean() == pytest.approx(0.0, abs=0.02)
    assert sway.var() == pytest.approx(1.0, rel=0.05)
    windowed = sway * np.hanning(64)[:, None]
    power = (np.abs(np.fft.rfft(windowed, axis=1)) ** 2).mean(axis=(0, 2))
    inside = (np.fft.rfftfreq(64) > 1 / most - 0.04) & (np.fft.rfftfreq(64) < 1 / fewest + 0.04)
    assert power[inside].sum() > 0.99 * power.sum()
    np.testing.assert_array_equal(cameras._sway(3, num_frames=17), cameras._sway(3, num_frames=64)[:17])
