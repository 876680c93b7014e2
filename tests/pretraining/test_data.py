"""What the embedded models are taught from: the clip cache, the tokenizer, mirrored captions."""

import numpy as np
import pytest

from vggrpo.pretraining.data import ClipCache
from vggrpo.pretraining.latent_cache import mirror_caption
from vggrpo.pretraining.text import build_tokenizer
from vggrpo.worlds import make_clip, sample_scene, vocabulary

MAX_TOKENS = 64


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> ClipCache:
    return ClipCache(folder=tmp_path_factory.mktemp("cache"), num_frames=5, size=32)


def test_a_cached_clip_is_the_rendered_clip(cache: ClipCache) -> None:
    rendered = make_clip(4, num_frames=5, height=32, width=32)
    for clip in (cache.clip(4), cache.clip(4)):  # rendered now, then read
        assert clip.caption == rendered.caption
        np.testing.assert_array_equal(clip.rgb, rendered.rgb)
        np.testing.assert_array_equal(clip.object_id, rendered.object_id)
        np.testing.assert_array_equal(clip.moving, rendered.moving)
        for name in ("camera_from_world", "intrinsics", "depth", "points", "confidence", "valid"):
            np.testing.assert_array_equal(getattr(clip.geometry, name), getattr(rendered.geometry, name))
        np.testing.assert_allclose(clip.geometry.scene_flow, rendered.geometry.scene_flow, atol=2e-4)


def test_parts_of_a_clip_are_read_alone(cache: ClipCache) -> None:
    for _ in range(2):  # from nothing, then from disk
        np.testing.assert_array_equal(cache.frames(4, start=1, count=3), cache.clip(4).rgb[1:4])
        np.testing.assert_array_equal(cache.rgb(6), make_clip(6, num_frames=5, height=32, width=32).rgb)
        assert cache.caption(5) == sample_scene(5).caption


def test_a_damaged_file_is_rendered_again(cache: ClipCache) -> None:
    expected = cache.clip(4).rgb
    path = next(cache.folder.rglob("4.safetensors"))
    path.write_bytes(path.read_bytes()[:200])
    np.testing.assert_array_equal(cache.rgb(4), expected)
    np.testing.assert_array_equal(cache.clip(4).rgb, expected)


def test_filling_is_taken_up_where_it_stopped(cache: ClipCache) -> None:
    assert list(cache.fill(2, first_seed=10)) == [10, 11]
    written = {path: path.stat().st_mtime_ns for path in cache.folder.rglob("*.safetensors")}
    assert list(cache.fill(3, first_seed=10)) == [10, 11, 12]
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_every_caption_is_tokens_without_unknowns() -> None:
    tokenizer = build_tokenizer(MAX_TOKENS)
    for seed in range(300):
        caption = sample_scene(seed).caption
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(caption).input_ids)
        assert tokens == [*vocabulary.split_words(caption), "</s>"]
        assert len(tokens) <= MAX_TOKENS


def test_the_tokenizer_splits_as_the_page_warns() -> None:
    """Words that the page names as unknown are exactly those that become <unk>."""
    tokenizer = build_tokenizer(MAX_TOKENS)
    prompt = "A Red CUBE, and a shiny robot; on the moon-lit floor!"
    words = vocabulary.split_words(prompt)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)[:-1]
    unknown = list(dict.fromkeys(word for word, token in zip(words, tokens, strict=True) if token == "<unk>"))
    assert unknown == vocabulary.unknown_words(prompt)
    assert unknown == ["shiny", "robot", "moon-lit"]


def test_the_tokenizer_survives_saving(tmp_path_factory: pytest.TempPathFactory) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = build_tokenizer(MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    caption = sample_scene(1).caption
    assert AutoTokenizer.from_pretrained(folder)(caption).input_ids == tokenizer(caption).input_ids


def test_a_mirrored_caption_is_the_caption_of_the_mirrored_scene() -> None:
    """Second route: mirror the specification and compose its caption."""
    swap = {"left": "right", "right": "left"}

    def mirrored(name: str) -> str:
        return " ".join(swap.get(word, word) for word in name.split())

    for seed in range(200):
        scene = sample_scene(seed)
        objects = tuple(
            vocabulary.ObjectWords(colour=item.words.colour, shape=item.words.shape, motion=mirrored(item.words.motion))
            for item in reversed(scene.objects)
        )
        expected = vocabulary.compose_caption(
            objects,
            floor_colour=scene.floor.colour,
            floor_pattern=scene.floor.pattern,
            camera_move=mirrored(scene.camera.name),
        )
        assert mirror_caption(scene.caption) == expected
        assert mirror_caption(expected) == scene.caption
