"""Weights of geometry models in files: read without running code, and fitted to a module with every name accounted for.

A file is ``.safetensors``, or torch's own ``.pth`` / ``.pt`` as the official releases have it, which is read with
``weights_only=True``. Anything else is refused before it is opened.
"""

import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 - only the error by which torch.load refuses code in a file

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vggrpo.runtime.errors import UserError

TORCH_SUFFIXES = (".pth", ".pt")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
WEIGHTS_PATTERN = "model{suffix}.safetensors"
MAX_SHARD = "8MB"
"""A plain git push to a Space refuses files of more than 10 MB."""
NAMES_SHOWN = 8
# Two bytes a number in bfloat16, and up to sixteen where a training's optimiser was saved along in float32.
FEWEST_BYTES, MOST_BYTES = 2, 16
LFS_POINTER = b"version https://git-lfs"

# Keys by which a checkpoint gives itself away, and how the model is called on the command line (None: it is no Φ).
TELLING_KEYS: tuple[tuple[str, str], ...] = (
    (r"info_sharing\.", "Any4D"),
    (r"aggregator\.", "VGGT"),
    (r"(model\.)?(da3\.)?backbone\.pretrained\.", "Depth Anything 3"),
    (r"(connector|foundation)\.", "a latent geometry model (Φ_g)"),
    (r".*lora_[AB]\.", "a LoRA adapter"),
    (r"condition_embedder\.", "a Wan video transformer"),
    (r"(encoder|decoder)\.(conv_in|down_blocks|up_blocks|mid_block)\.", "a video VAE"),
    (r"encoder\.block\.", "a text encoder"),
)


@dataclass(frozen=True, kw_only=True)
class WeightLayout:
    """How the official checkpoints of one model name their tensors.

    ``stored_name`` maps a name to the one this package keeps it under, or to None where it is left out by choice.
    """

    title: str
    stored_name: Callable[[str], str | None]


def keep_name(key: str) -> str | None:
    """The layout of checkpoints that need no mapping."""
    return key


def identify(names: Iterable[str]) -> str | None:
    """What model a state dict belongs to, by its names; None if it cannot be told."""
    keys = tuple(names)
    for pattern, title in TELLING_KEYS:
        if any(re.match(pattern, key) for key in keys):
            return title
    return None


def require_model(names: Iterable[str], *, title: str, origin: str) -> None:
    """The names must not be those of another model.

    Raises:
        UserError: they are; the message says of which.
    """
    found = identify(names)
    if found not in {None, title}:
        raise UserError(f"{origin} holds the weights of {found}, not of {title}")


def stored_state(state: Mapping[str, Tensor], layout: WeightLayout) -> dict[str, Tensor]:
    """Every tensor under its stored name, copies under other names compared and dropped.

    Raises:
        UserError: two copies of one tensor differ.
    """
    result: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = layout.stored_name(key)
        if name is None:
            continue
        if name in result and not torch.equal(result[name], tensor):
            raise UserError(f"the {layout.title} weights contradict themselves: {key!r} differs from its copy {name!r}")
        result[name] = tensor
    return result


def fill(model: nn.Module, state: Mapping[str, Tensor], *, layout: WeightLayout) -> None:
    """Copy official or own weights into ``model``; one that lies on ``meta`` takes them over as they are.

    Raises:
        UserError: names or shapes do not match; the message names them, or the model that they belong to.
    """
    require_model(state, title=layout.title, origin="this checkpoint")
    given = stored_state(state, layout)
    expected = model.state_dict()
    problems = [
        _listed("missing", [key for key in expected if key not in given]),
        _listed("unexpected", [key for key in given if key not in expected]),
        _listed(
            "of another shape",
            [
                f"{key} {tuple(given[key].shape)} instead of {tuple(tensor.shape)}"
                for key, tensor in expected.items()
                if key in given and given[key].shape != tensor.shape
            ],
        ),
    ]
    if any(problems):
        raise UserError(f"these weights do not fit the {layout.title} model: {'; '.join(filter(None, problems))}")
    model.load_state_dict(given, assign=next(model.parameters()).is_meta)


def _listed(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{kind}: {', '.join(names[:NAMES_SHOWN])}{more}"


def require_plausible(path: Path, *, numbers: int, title: str) -> None:
    """Look at a file from outside: it must exist, be of a kind that runs no code, and have room for the weights.

    Raises:
        UserError: it cannot be the file of a model of ``numbers`` parameters.
    """
    require_kind(path)
    if path.suffix not in TORCH_SUFFIXES:
        # Its names lie at the front and cost nothing to read: better told by them than by the size.
        require_model(names_in(path), title=title, origin=str(path))
    size = path.stat().st_size
    megabytes = size / 1e6
    if size < FEWEST_BYTES * numbers:
        least = FEWEST_BYTES * numbers / 1e6
        raise UserError(
            f"{path} has {megabytes:.1f} MB, but the weights of {title} take at least {least:.0f} MB: it is truncated "
            "or another model's; fetch it again"
        )
    if size > MOST_BYTES * numbers:
        raise UserError(f"{path} has {megabytes:.0f} MB: too many for the weights of {title}; give the right file")


def require_kind(path: Path) -> None:
    """The file must exist, have a known suffix, and hold more than a pointer to itself.

    Raises:
        UserError: one of these is not so.
    """
    if not path.exists():
        raise UserError(f"no weight file at {path}")
    if path.suffix not in SUFFIXES or not path.is_file():
        raise UserError(f"{path} is no weight file that is read here: give a file ending in {', '.join(SUFFIXES)}")
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(f"{path} is only a git-lfs pointer: fetch the file itself (git lfs pull)")


def published_file(source: Path, *, names: Sequence[str], title: str) -> Path:
    """The weight file that ``source`` is, or that it holds under its published name (best first) or as the only one.

    Raises:
        UserError: there is none, or there are several.
    """
    if not source.is_dir():
        return source
    for name in names:
        if (source / name).is_file():
            return source / name
    files = sorted(path for path in source.iterdir() if path.suffix in SUFFIXES)
    if len(files) == 1:
        return files[0]
    raise UserError(f"no weights of {title} in {source}: it should hold {' or '.join(names)}")


def names_in(path: Path) -> tuple[str, ...]:
    """The names of the tensors of a safetensors file.

    Raises:
        UserError: it is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return tuple(file.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or no safetensors ({first_line(error)}); fetch it again") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of one weight file, read without running any code it may hold.

    Raises:
        UserError: the file is absent, damaged, or holds something else.
    """
    require_kind(path)
    if path.suffix not in TORCH_SUFFIXES:
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is truncated or no safetensors ({first_line(error)}); fetch it again") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise UserError(f"{path} {_why_unread(path)}") from error
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        raise UserError(f"{path} is truncated or no checkpoint ({first_line(error)}); fetch it again") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict of tensors")
    return state


def _why_unread(path: Path) -> str:
    """Why torch refuses a checkpoint in which it looks for tensors only."""
    if not zipfile.is_zipfile(path):
        return "is truncated or no checkpoint; fetch it again"
    # Found by looking at the file, which runs nothing.
    foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    named = f" ({', '.join(foreign[:3])})" if foreign else ""
    return f"holds more than tensors{named}, which could run code: save its tensors as safetensors where you trust it"


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def read_shards(folder: Path) -> dict[str, Tensor]:
    """Tensors of all ``model*.safetensors`` of a folder.

    Raises:
        UserError: there is none, one of a numbered set is missing, or one is damaged.
    """
    shards = sorted(folder.glob(WEIGHTS_PATTERN.format(suffix="*")))
    if not shards:
        raise UserError(f"no weight file in {folder}; fetch or train it again")
    numbered = re.fullmatch(r"model-\d+-of-(\d+)\.safetensors", shards[0].name)
    wanted = int(numbered[1]) if numbered else 1
    if len(shards) != wanted:
        raise UserError(f"{folder} has {len(shards)} of {wanted} weight files model*.safetensors; fetch them again")
    return {name: tensor for shard in shards for name, tensor in read_state(shard).items()}


def write_shards(model: nn.Module, folder: Path, *, full_precision: Sequence[str]) -> None:
    """Write ``model*.safetensors`` in bfloat16, except parameters whose names begin with ``full_precision``.

    Half the size of float32; the rounding (2⁻⁹ relative) is that of the numbers a model is trained with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    halved = {name for name, _ in model.named_parameters() if not name.startswith(tuple(full_precision))}
    tensors = {
        name: (tensor.to(torch.bfloat16) if name in halved else tensor).detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    for old in folder.glob(WEIGHTS_PATTERN.format(suffix="*")):
        old.unlink()
    split = split_torch_state_dict_into_shards(tensors, filename_pattern=WEIGHTS_PATTERN, max_shard_size=MAX_SHARD)
    for filename, names in split.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, folder / filename)
