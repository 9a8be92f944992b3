"""Fixtures of tests of remote corpora: the tiny data without any index, on the disk and on servers."""

import shutil
from pathlib import Path

import pytest

from tests import tiny
from tests.data.remote_corpora import batches_of
from tests.data.remote_server import remote_yaml, s3_server, upload, web_server


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """Data in a folder of its own, without any index. Tests must not write in it."""
    return tiny.write_data(tmp_path_factory.mktemp("storage") / "data")


@pytest.fixture(scope="session")
def local(files, tmp_path_factory):
    """The batches from the disk, by the number of documents in a block."""
    made: dict = {}

    def batches(block: int | None = None) -> list:
        if block not in made:
            folder = tmp_path_factory.mktemp("local")
            shutil.copytree(files.parent, folder / "data")
            made[block] = batches_of(remote_yaml(folder / "data" / "data.yaml", folder / "yaml", "", block))
        return made[block]

    return batches


@pytest.fixture
def web(files):
    with web_server(files.parent) as server:
        yield server


@pytest.fixture
def s3(files, monkeypatch):
    with s3_server(monkeypatch) as server:
        upload(files.parent, "bucket", server.folder)
        yield server
