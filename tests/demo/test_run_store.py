"""Names, lookups and the sweep of the runs root."""

import os
import time

import pytest

from demo.run_store import RunStore, UnknownRun


@pytest.fixture
def store(tmp_path):
    (tmp_path / "examples" / "orbit").mkdir(parents=True)
    (tmp_path / "examples" / "orbit" / "rewards.json").write_text("{}")
    return RunStore(root=tmp_path / "runs", examples=tmp_path / "examples", max_bytes=10_000, max_age=100.0)


def make_run(store, *, age=0.0, size=4000):
    run_id = store.new_run()
    folder = store.target(run_id)
    folder.mkdir(parents=True)
    (folder / "rewards.json").write_text("{}")
    (folder / "video.mp4").write_bytes(b"x" * size)
    os.utime(folder, (time.time() - age, time.time() - age))
    return run_id


def test_names_are_long_and_never_repeat(store):
    names = {store.new_run() for _ in range(1000)}
    assert len(names) == 1000
    assert min(map(len, names)) >= 22  # 128 bits in base 64


@pytest.mark.parametrize(
    "name", ["../secret", "..", "", "/etc", "a/b", "orbit/../../runs", "x" * 22, "page", ".hidden-run-of-22-chars"]
)
def test_no_name_leads_out_of_the_roots(store, tmp_path, name):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "rewards.json").write_text("{}")
    with pytest.raises(UnknownRun):
        store.find(name)


def test_runs_and_examples_are_found(store):
    run_id = make_run(store)
    assert store.find(run_id) == store.root / run_id
    assert store.find("orbit") == store.examples / "orbit"
    assert store.is_example("orbit")
    assert not store.is_example(run_id)


def test_sweep_removes_old_runs_and_those_beyond_the_cap_with_their_page_files(store):
    kept = [make_run(store, age=1), make_run(store, age=2)]
    beyond, old = make_run(store, age=50), make_run(store, age=200, size=1)
    for run_id in (*kept, beyond, old, "orbit"):
        (store.page_files(run_id) / "stage.viser").write_bytes(b"")
    (store.page_files(f"{beyond}.base") / "stage.viser").write_bytes(b"")
    store.sweep()
    assert sorted(path.name for path in store.root.iterdir()) == sorted([*kept, "page"])
    assert sorted(path.name for path in (store.root / "page").iterdir()) == sorted([*kept, "orbit"])


def test_what_the_page_derives_counts_as_the_runs_size(store):
    newer, older = make_run(store, age=1, size=1), make_run(store, age=2, size=1)
    (store.page_files(newer) / "stage.viser").write_bytes(b"x" * 11_000)
    (store.page_files("orbit") / "stage.viser").write_bytes(b"x" * 99_000)
    store.sweep()
    assert not (store.root / older).exists()
    assert (store.root / "page" / "orbit" / "stage.viser").exists()


def test_a_run_that_is_being_written_is_left_alone_until_its_process_must_be_dead(store):
    store.root.mkdir()
    young, dead = store.root / ".abc-1", store.root / ".abc-2"
    for path, hours in ((young, 1), (dead, 7)):
        path.mkdir()
        os.utime(path, (time.time() - hours * 3600, time.time() - hours * 3600))
    store.sweep()
    assert young.exists()
    assert not dead.exists()


def test_opening_a_run_keeps_it_from_the_sweep(store):
    opened = make_run(store, age=50)
    others = [make_run(store, age=10), make_run(store, age=20)]
    store.find(opened)
    store.sweep()
    assert store.find(opened)
    with pytest.raises(UnknownRun):
        store.find(others[1])


def test_sweep_of_a_root_that_does_not_exist_is_nothing(store):
    store.sweep()
