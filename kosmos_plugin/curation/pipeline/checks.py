"""Checks of a recipe's options and inputs."""

import copy

import fsspec

from kosmos_plugin.curation.pipeline.inputs import READ_ERRORS, OtherForm
from kosmos_plugin.curation.pipeline.steps import Reader
from kosmos_plugin.errors import UserError


def require(condition: bool, message: str) -> None:
    """Raise a UserError with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def require_folder(path: str, option: str) -> None:
    """Raise a UserError unless `path` is a folder, on any storage that fsspec knows."""
    filesystem, folder = fsspec.core.url_to_fs(path)
    require(filesystem.isdir(folder), f"{option} {path} is not a folder.")


def require_known_form(reader: Reader) -> None:
    """Raise a UserError if the reader's first file holds something else than it reads."""
    trial = copy.copy(reader)  # its counts are not the run's
    trial.stats, trial.exclusion_writer = copy.deepcopy(reader.stats), None
    try:
        next(iter(trial.read(reader.files[0])), None)
    except OtherForm as error:
        raise UserError(f"{reader.files[0].path}: {error}.") from None
    except READ_ERRORS:  # cut short or broken: counted when it is read
        pass
