"""fairseq-train with its data on storage that fails: losses and weights are those of a training from the disk."""

import shutil
import threading
import time

import pytest

from tests import tiny
from tests.data.remote_server import Faults, ServerProcess, remote_yaml, s3_server, upload
from tests.fairseq_modules.test_resume import Training, assert_same

BLOCK = 5


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Data without any index."""
    return tiny.write_data(tmp_path_factory.mktemp("storage") / "data")


def from_disk(files, folder, ranks: int = 1) -> Training:
    shutil.copytree(files.parent, folder / "data")
    data = remote_yaml(folder / "data" / "data.yaml", folder / "disk", "", BLOCK)
    return Training(data, folder / "expected", ranks).finish()


@pytest.mark.slow
def test_s3_with_failing_requests_a_kill_and_a_resume(files, tmp_path, monkeypatch):
    expected = from_disk(files, tmp_path)
    with s3_server(monkeypatch) as server:
        upload(files.parent, "bucket", server.folder)
        server.faults = Faults(failing=0.05, truncated=0.05)
        data = remote_yaml(files, tmp_path / "yaml", "s3://bucket", BLOCK)
        training = Training(data, tmp_path / "run")
        training.kill_when(lambda: training.reached(5))
        assert_same(training.finish(), expected)
        assert server.failed > 0
    output = (tmp_path / "run" / "output.txt").read_text()
    assert "Making the index of s3://bucket" in output or "secret" not in output


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2])
def test_two_ranks_and_a_server_that_is_killed(files, tmp_path, kills):
    """The ranks share a cache; both wait for the server to come back."""
    expected = from_disk(files, tmp_path, ranks=2)
    server = ServerProcess(files.parent)
    try:
        data = remote_yaml(files, tmp_path / "yaml", server.url, BLOCK)
        training = Training(data, tmp_path / "run", 2)
        done = threading.Event()

        def kill() -> None:
            for _ in range(kills):
                while not done.is_set() and not training.reached(2):
                    time.sleep(0.05)
                server.kill()
                time.sleep(4)
                server.start()
                time.sleep(1)

        killer = threading.Thread(target=kill)
        killer.start()
        training.finish()
        done.set()
        killer.join()
        assert_same(training, expected)
    finally:
        server.kill()
