"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
import torch

import kosmos_plugin
from kosmos_plugin.compat.quiet_import import unchanged_root_logger
from tests import tiny
from tests.flash_stand_in import flash_on_cpu
from tests.training_run import Training, kill, processes_of

kosmos_plugin.register()

# Tensors are tiny: more threads would wait for each other.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def root_logger():
    """fairseq's commands change the root logger, on which other tests must not depend."""
    with unchanged_root_logger():
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """The data YAML of tiny data with all three streams. Tests must not write in its folder."""
    return tiny.write_data(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="session")
def undisturbed(data, tmp_path_factory) -> Training:
    """A finished training of two ranks."""
    return Training(data, tmp_path_factory.mktemp("undisturbed"), 2).finish()


@pytest.fixture
def nothing_left(tmp_path):
    """A failed test leaves no training in its folder behind."""
    yield
    kill(processes_of(tmp_path))


@pytest.fixture
def task(data):
    return tiny.task(data)


@pytest.fixture
def model(task):
    return tiny.model(task)


@pytest.fixture
def flash():
    """FlashAttention's operator computes on the CPU; the rate of dropout of each call."""
    with flash_on_cpu() as calls:
        yield calls
