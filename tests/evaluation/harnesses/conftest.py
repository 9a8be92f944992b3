"""A checkpoint with the weights of the fixture `kosmos`, for the harnesses' own commands."""

import logging
import shutil

import pytest
import torch

from kosmos_plugin.generation.generator import load


@pytest.fixture(scope="module", autouse=True)
def level_of_logging():
    """Restore the root logger's level, which the adapters change; tests of fairseq's commands read its log."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.fixture(scope="session")
def varied_checkpoint(data, checkpoint, tmp_path_factory):
    state = torch.load(checkpoint, weights_only=True)
    state["model"]["decoder.embed_tokens.weight"] *= 3
    path = tmp_path_factory.mktemp("varied") / "checkpoint.pt"
    torch.save(state, path)
    shutil.copytree(data.parent / "vocabulary", path.parent / "vocabulary")
    return path


@pytest.fixture(scope="session")
def varied(varied_checkpoint):
    """The model of that checkpoint, for comparison."""
    return load(varied_checkpoint)
