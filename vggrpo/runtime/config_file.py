"""Configurations as ``config.yaml``: what a run was started with, in words that can be read, changed and run again."""

import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_text

CONFIG_NAME = "config.yaml"

_Config = TypeVar("_Config")


def write_config(folder: Path, config: Any) -> None:
    """Write ``config.yaml`` of a dataclass into a run folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / CONFIG_NAME, yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True))


def read_mapping(path: Path) -> dict[str, object]:
    """The top-level mapping of a YAML file. Raises a UserError that names the file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: give a YAML file of settings.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as YAML: {reason}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold settings as `name: value` lines.")
    return {str(key): value for key, value in content.items()}


def to_plain(value: Any) -> Any:
    """A configuration as YAML knows values: mappings, lists, strings, numbers."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def with_settings(config: _Config, settings: Mapping[str, object], *, source: str) -> _Config:
    """A dataclass instance with some fields replaced by plain values, nested ones by nested mappings.

    Raises:
        UserError: a name that there is not (the nearest one is suggested), or a value of the wrong kind. ``source``
            names where the settings come from.
    """
    kinds = typing.get_type_hints(type(config))
    values = {field.name: getattr(config, field.name) for field in fields(typing.cast("Any", config))}
    for name, value in settings.items():
        if name not in values:
            raise UserError(f"{source} has a setting {name!r} that does not exist{_nearest(name, values)}")
        if is_dataclass(values[name]) and isinstance(value, Mapping):
            values[name] = with_settings(values[name], value, source=f"{source}, {name}:")
        else:
            values[name] = _converted(value, kinds[name], name=f"{source}: {name}")
    return type(config)(**values)


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
    return f": did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}."


def _converted(value: object, kind: Any, *, name: str) -> Any:
    """A plain value as a field's type. Raises a UserError."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in {Union, types.UnionType}:
        if value is None and type(None) in arguments:
            return None
        return _converted(value, next(one for one in arguments if one is not type(None)), name=name)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_converted(item, arguments[0], name=name) for item in value)
    if origin is Mapping and isinstance(value, Mapping):
        return {str(key): _converted(item, arguments[1], name=f"{name}, {key}") for key, item in value.items()}
    if origin is Literal and value in arguments:
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, str):
        # YAML 1.1 takes 1e-4 (without a point) for text.
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise UserError(f"{name} is {value!r}; give {_in_words(kind)}.")


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return "a list"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, str(kind))
