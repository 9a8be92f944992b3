"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
import torch

import kosmos_plugin
from tests import tiny

kosmos_plugin.register()

# Tensors are tiny: more threads would wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """The data YAML of tiny data with all three streams. Tests must not write in its folder."""
    return tiny.write_data(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture
def task(data):
    return tiny.task(data)


@pytest.fixture
def model(task):
    return tiny.model(task)
