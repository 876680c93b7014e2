"""What ``train`` takes where no flag says otherwise: the preset's defaults, a configuration file, or the run's own.

From weakest to strongest: the paper's values, the preset's table, ``--config FILE``, flags. With ``--resume`` the run's
``config.yaml`` stands in for all but the flags. The flags that decide this are read ahead of the others, so that
``--help`` can show the defaults that would be used.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.defaults import training_defaults
from vggrpo.presets import get_preset
from vggrpo.runtime.config_file import CONFIG_NAME, read_mapping, with_settings
from vggrpo.runtime.errors import UserError


def starting_settings(argv: Sequence[str]) -> GrpoConfig:
    """The settings of `train` and `plan` before their flags; plain defaults for other commands.

    Raises:
        UserError: there is no such preset, or a configuration file is wrong.
    """
    if not argv or argv[0] not in {"train", "plan"}:
        return GrpoConfig()
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument("--preset")
    reader.add_argument("--config", type=Path)
    reader.add_argument("--out", type=Path)
    reader.add_argument("--resume", action="store_true")
    try:
        ahead, _ = reader.parse_known_args(list(argv[1:]))
    except argparse.ArgumentError:
        # An option without its value: the real parser says so.
        return GrpoConfig()
    if ahead.resume and ahead.out is not None and (ahead.out / CONFIG_NAME).is_file():
        if ahead.config is not None:
            raise UserError("A resumed run keeps its settings: leave out --config, or start a new folder.")
        return _from_file(ahead.out / CONFIG_NAME, preset=None)
    if ahead.config is not None:
        return _from_file(ahead.config, preset=ahead.preset)
    return training_defaults(get_preset(ahead.preset or "tiny").name)


def _from_file(path: Path, *, preset: str | None) -> GrpoConfig:
    """The settings of a file over the defaults of its preset (or of the one that the command line names)."""
    settings = read_mapping(path)
    name = preset or settings.get("preset", "tiny")
    if not isinstance(name, str):
        raise UserError(f"{path}: preset is {name!r}; give the name of one.")
    defaults = training_defaults(get_preset(name).name)
    return with_settings(defaults, settings | {"preset": name}, source=str(path))
