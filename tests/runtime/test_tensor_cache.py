"""Tensors by name on disk, and names of weights. Oracles: the tensors that were put, damaged and foreign files."""

import os
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from vggrpo.runtime.errors import UserError
from vggrpo.runtime.tensor_cache import TensorCache
from vggrpo.runtime.weights_sketch import ENTRIES, weights_sketch


def test_an_entry_comes_back_as_it_was_put(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "cache")
    tensors = {"a": torch.randn(3, 4), "b": torch.randn(2).bfloat16(), "mask": torch.tensor([True, False])}
    assert cache.get("one: a/b") is None
    assert not cache.has("one: a/b")
    cache.put("one: a/b", tensors | {"turned": tensors["a"].T.clone().T})
    found = TensorCache(tmp_path / "cache").get("one: a/b")
    assert found is not None
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert cache.has("one: a/b")
    assert cache.get("another") is None
    cache.put("one: a/b", {"a": torch.zeros(1)})
    assert cache.get("one: a/b").keys() == {"a"}
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("keep", [0, 5, -1])
def test_a_damaged_entry_counts_as_absent(tmp_path: Path, keep: int) -> None:
    cache = TensorCache(tmp_path)
    cache.put("x", {"a": torch.randn(100)})
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:keep])
    assert cache.get("x") is None
    assert not cache.has("x")


def test_a_file_of_another_name_is_not_taken(tmp_path: Path) -> None:
    """Renamed by hand, or two names of one hash: the name inside decides."""
    cache = TensorCache(tmp_path)
    cache.put("x", {"a": torch.ones(1)})
    (path,) = tmp_path.iterdir()
    cache.put("y", {"a": torch.zeros(1)})
    (other,) = set(tmp_path.iterdir()) - {path}
    path.replace(other)
    assert cache.get("y") is None
    assert not cache.has("y")


def test_leftovers_of_killed_processes_go_and_those_at_work_stay(tmp_path: Path) -> None:
    old, fresh = tmp_path / ".one.1.tmp", tmp_path / ".two.2.tmp"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    TensorCache(tmp_path)
    assert list(tmp_path.iterdir()) == [fresh]


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot take the cache .*--cache"):
        TensorCache(tmp_path / "file" / "cache").put("x", {"a": torch.ones(1)})


def test_a_sketch_is_of_the_weights_however_they_are_held() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(80, 90), nn.Linear(90, 3)).bfloat16()
    sketch = weights_sketch(model)
    assert weights_sketch(model.float()) == sketch
    assert model[0].weight.numel() > ENTRIES
    with torch.no_grad():
        model[1].bias[2] += 0.5
    assert weights_sketch(model) != sketch
    assert weights_sketch(model, parts=("1.",)) != weights_sketch(model)
    untouched = weights_sketch(model, parts=("0.",))
    with torch.no_grad():
        model[1].bias[2] -= 0.5
    assert weights_sketch(model, parts=("0.",)) == untouched
    assert weights_sketch(nn.Sequential(nn.Linear(90, 80), nn.Linear(80, 3))) != sketch
    scaled = nn.Linear(80, 90)
    before = weights_sketch(scaled)
    with torch.no_grad():
        scaled.weight.mul_(1.05)
    assert weights_sketch(scaled) != before
