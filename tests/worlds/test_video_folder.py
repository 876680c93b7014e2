"""Folders of videos. Oracles: files laid out by hand in each layout, numbered frames, and links that lead outside."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.worlds.real_videos import numbers_of, write_counting_images, write_counting_video
from vggrpo.runtime.errors import UserError
from vggrpo.worlds.clip_decoding import ClipShape, VideoClip, read_clip
from vggrpo.worlds.video_folder import ClipPicker, VideoListing
from vggrpo.worlds.video_layouts import list_videos

SHAPE = ClipShape(num_frames=5, height=16, width=24, fps=8)


def listing(folder: Path, **options: object) -> VideoListing:
    return list_videos(folder, shape=SHAPE, **options)


def captions(listed: VideoListing) -> dict[str, str | None]:
    return {source.name: source.caption for source in listed.sources}


def picked(folder: Path, *, seed: int = 0, most: int = 100, **options: object) -> list[VideoClip]:
    picker = ClipPicker(listing=listing(folder, **options), shape=SHAPE, seed=seed)
    return [clip for clip, _ in zip(picker.clips(), range(most), strict=False)]


def test_any_folder_gives_its_videos_with_captions_of_every_form(tmp_path: Path) -> None:
    for name in ("a.mp4", "deep/er/b.mp4", "c.mp4", "d.mp4", "e.mp4", ".hidden.mp4"):
        write_counting_video(tmp_path / name, 6)
    (tmp_path / "notes.md").write_text("not a video")
    (tmp_path / "a.txt").write_text("a red\n sphere \n")
    (tmp_path / "captions.csv").write_text('file,caption\ndeep/er/b.mp4,"a cube, blue"\na.mp4,not this one\n')
    rows = [{"file_name": "c.mp4", "text": "by its name"}, {"video": "d", "prompt": "by its stem"}]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    listed = listing(tmp_path)
    assert listed.layout == "folder"
    assert captions(listed) == {
        "a.mp4": "a red sphere",
        "deep/er/b.mp4": "a cube, blue",
        "c.mp4": "by its name",
        "d.mp4": "by its stem",
        "e.mp4": None,
    }
    table = tmp_path.parent / f"{tmp_path.name}-table.csv"
    table.write_text("path,caption\ne.mp4,from a table elsewhere\nc.mp4,the table that was named goes first\n")
    named = captions(listing(tmp_path, captions=table))
    assert named["e.mp4"] == "from a table elsewhere"
    assert named["c.mp4"] == "the table that was named goes first"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("captions.csv", "clip,caption\na.mp4,x\n", ["captions.csv", "row 1", "file_name"]),
        ("captions.csv", "file,note\na.mp4,x\n", ["captions.csv", "row 1", "caption, text"]),
        ("captions.jsonl", '{"file": "a.mp4", "caption": "x"}\nnope\n', ["captions.jsonl", "line 2"]),
        ("captions.jsonl", "[1]\n", ["captions.jsonl", "line 1"]),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: str, words: list[str]) -> None:
    write_counting_video(tmp_path / "a.mp4", 6)
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as raised:
        listing(tmp_path)
    assert all(word in str(raised.value) for word in words), raised.value


def test_a_folder_without_videos_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no video that can be read in the layout 'folder'"):
        listing(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        listing(tmp_path / "nowhere")


def test_dl3dv_scenes_are_images_in_order(tmp_path: Path) -> None:
    write_counting_images(tmp_path / "1K" / "3fa2" / "images_4", 12)
    (tmp_path / "1K" / "3fa2" / "transforms.json").write_text("{}")
    write_counting_images(tmp_path / "1K" / "77b0" / "nerfstudio" / "images_8", 12, height=8, width=12)
    write_counting_images(tmp_path / "1K" / "77b0" / "nerfstudio" / "images_4", 12, height=16, width=24)
    write_counting_images(tmp_path / "1K" / "77b0" / "nerfstudio" / "images", 12, height=32, width=48)
    (tmp_path / "captions.csv").write_text("file,caption\n3fa2,a walk\n1K/77b0,another walk\n")
    listed = listing(tmp_path)
    assert listed.layout == "dl3dv"
    assert captions(listed) == {"1K/3fa2": "a walk", "1K/77b0/nerfstudio": "another walk"}
    by_name = {source.name: source for source in listed.sources}
    folders = {file.parent.name for file in by_name["1K/77b0/nerfstudio"].files}
    assert folders == {"images_4"}, "the smallest that is as large as the clips"
    clip = next(clip for clip in picked(tmp_path) if clip.source.name == "1K/3fa2")
    first = round(clip.start * 8)
    assert numbers_of(read_clip(clip)) == list(range(first, first + 5))


def test_realestate10k_takes_the_stretch_between_its_times(tmp_path: Path) -> None:
    write_counting_video(tmp_path / "videos" / "q-N_4.mp4", 30)

    def write(name: str, address: str, frames: list[int]) -> None:
        pose = " 0.5 0.9 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0"
        lines = [address, *(f"{frame * 125_000}{pose}" for frame in frames)]
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "train" / name).write_text("\n".join(lines) + "\n")

    write("aa.txt", "https://www.youtube.com/watch?v=q-N_4", [10, 11, 12, 13, 14])
    write("bb.txt", "https://www.youtube.com/watch?v=absent", [0, 1, 2, 3, 4])
    write("cc.txt", "https://www.youtube.com/watch?v=q-N_4", [3])
    (tmp_path / "captions.jsonl").write_text('{"file": "aa", "caption": "a kitchen"}\n')
    listed = listing(tmp_path)
    assert listed.layout == "realestate10k"
    assert captions(listed) == {"train/aa.txt": "a kitchen"}
    reasons = {one.name: one.reason for one in listed.skipped}
    assert reasons.keys() == {"train/bb.txt", "train/cc.txt"}
    assert "absent" in reasons["train/bb.txt"]
    clips = picked(tmp_path)
    assert len(clips) == 1
    assert numbers_of(read_clip(clips[0])) == [10, 11, 12, 13, 14]


def test_miradata_takes_cut_clips_whole_and_uncut_videos_between_their_times(tmp_path: Path) -> None:
    write_counting_video(tmp_path / "clip_video" / "000000000" / "000000000007.mp4", 5)
    write_counting_video(tmp_path / "raw_video" / "000000000008.mp4", 30)
    heading = "clip_id,source,video_id,video_url,file_path,timestamp,short_caption,dense_caption"
    rows = [
        """7,youtube,3,http://x,000000000/000000000007.mp4,"['0:00:01.000', '0:00:02.000']",short,a dense one""",
        """8,youtube,4,http://x,000000000/000000000008.mp4,"['00:00:02.000', '00:00:02.625']",only short,""",
        """9,youtube,5,http://x,../../secret.mp4,"['00:00:02.000', '00:00:02.625']",x,y""",
        """10,youtube,5,http://x,000000000/gone.mp4,nonsense,x,y""",
    ]
    (tmp_path / "miradata_v1_330k.csv").write_text("\n".join([heading, *rows]) + "\n")
    write_counting_video(tmp_path.parent / "secret.mp4", 8)
    listed = listing(tmp_path)
    assert listed.layout == "miradata"
    by_caption = {source.caption: source for source in listed.sources}
    assert by_caption.keys() == {"a dense one", "only short"}
    assert [one.reason for one in listed.skipped] == ["outside the folder", "not in the folder"]
    frames = {clip.source.caption: numbers_of(read_clip(clip)) for clip in picked(tmp_path)}
    assert frames == {"a dense one": [0, 1, 2, 3, 4], "only short": [16, 17, 18, 19, 20]}


def test_miradata_version_0_counts_in_frames(tmp_path: Path) -> None:
    write_counting_video(tmp_path / "raw_video" / "000000000" / "000000000012.mp4", 30)
    text = "index,video_id,start_frame,end_frame,fps\n000000000012-003,q,8,13,8.0\n"
    (tmp_path / "miradata.csv").write_text(text)
    (clip,) = picked(tmp_path)
    assert numbers_of(read_clip(clip)) == [8, 9, 10, 11, 12]


def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write_counting_video(outside / "secret.mp4", 6)
    folder = tmp_path / "folder"
    write_counting_video(folder / "a.mp4", 6)
    (folder / "link.mp4").symlink_to(outside / "secret.mp4")
    (folder / "linked").symlink_to(outside)
    listed = listing(folder)
    assert [source.name for source in listed.sources] == ["a.mp4"]
    assert {one.name for one in listed.skipped} == {"link.mp4", "linked"}
    assert all("symbolic link" in one.reason for one in listed.skipped)


def test_a_playlist_that_calls_itself_a_video_opens_nothing(tmp_path: Path) -> None:
    secret = write_counting_video(tmp_path / "secret.mp4", 6)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{secret}'\n")
    (folder / "stream.ts").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    picker = ClipPicker(listing=listing(folder), shape=SHAPE)
    assert list(picker.clips()) == []
    assert [one.name for one in sorted(picker.skipped, key=lambda one: one.name)] == ["list.mp4", "stream.ts"]


def test_unreadable_and_short_videos_are_listed_with_their_reasons(tmp_path: Path) -> None:
    write_counting_video(tmp_path / "good.mp4", 8)
    write_counting_video(tmp_path / "short.mp4", 4)
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 500)
    picker = ClipPicker(listing=listing(tmp_path), shape=SHAPE)
    assert [clip.source.name for clip in picker.clips()] == ["good.mp4"]
    reasons = {one.name: one.reason for one in picker.skipped}
    assert reasons.keys() == {"short.mp4", "broken.mp4"}
    assert "0.50 s" in reasons["short.mp4"]
    assert "cannot be read" in reasons["broken.mp4"]
    assert str(tmp_path) not in reasons["broken.mp4"]


def test_every_video_once_before_any_twice_and_never_overlapping(tmp_path: Path) -> None:
    for name, count in (("a.mp4", 12), ("b.mp4", 27), ("c.mp4", 6)):
        write_counting_video(tmp_path / name, count)
    clips = picked(tmp_path)
    names = [clip.source.name for clip in clips]
    assert sorted(names[:3]) == ["a.mp4", "b.mp4", "c.mp4"]
    assert sorted(names) == ["a.mp4"] * 2 + ["b.mp4"] * 5 + ["c.mp4"]
    for name in set(names):
        seen = [number for clip in clips if clip.source.name == name for number in numbers_of(read_clip(clip))]
        assert len(seen) == len(set(seen)), "no frame is in two clips"


def test_the_choice_is_the_seeds(tmp_path: Path) -> None:
    for index in range(6):
        write_counting_video(tmp_path / f"{index}.mp4", 23)
    first = [(clip.source.name, clip.start) for clip in picked(tmp_path)]
    assert first == [(clip.source.name, clip.start) for clip in picked(tmp_path)]
    assert first[:3] == [(clip.source.name, clip.start) for clip in picked(tmp_path, most=3)]
    other = [(clip.source.name, clip.start) for clip in picked(tmp_path, seed=1)]
    assert [name for name, _ in first[:6]] != [name for name, _ in other[:6]]
    assert set(first) != set(other)
    assert len({start for _, start in first}) > 6, "starts are not all the same"


def test_few_clips_of_many_videos_open_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(6):
        write_counting_video(tmp_path / f"{index}.mp4", 8)
    opened: list[str] = []
    monkeypatch.setattr(
        "vggrpo.worlds.video_folder.seconds_of", lambda source, *, fps: opened.append(source.name) or 1.0
    )
    assert len(picked(tmp_path, most=2)) == 2
    assert len(opened) <= 3


def test_a_rejected_video_gives_no_further_clips(tmp_path: Path) -> None:
    write_counting_video(tmp_path / "a.mp4", 20)
    write_counting_video(tmp_path / "b.mp4", 20)
    picker = ClipPicker(listing=listing(tmp_path), shape=SHAPE)
    names = []
    for clip in picker.clips():
        names.append(clip.source.name)
        if clip.source.name == "a.mp4":
            picker.reject(clip, "damaged in the middle")
    assert names.count("a.mp4") == 1
    assert names.count("b.mp4") == 4
    assert [(one.name, one.reason) for one in picker.skipped] == [("a.mp4", "damaged in the middle")]


def test_a_clip_is_known_by_its_file_and_its_place(tmp_path: Path) -> None:
    path = write_counting_video(tmp_path / "a.mp4", 20)
    first, second = (clip.identity for clip in picked(tmp_path, most=2))
    assert first != second
    assert picked(tmp_path, most=1)[0].identity == first
    write_counting_video(path, 21)
    assert picked(tmp_path, most=1)[0].identity != first
    assert np.unique([clip.identity for clip in picked(tmp_path)]).size == 4
