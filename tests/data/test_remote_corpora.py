"""Training data on remote storage: the same batches as from the disk, bit for bit, whatever the storage does."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kosmos_plugin.data.config import read_data_config
from kosmos_plugin.data.micro_batches import MicroBatches
from kosmos_plugin.data.remote_files import redacted
from kosmos_plugin.errors import UserError
from tests.data.remote_corpora import UPDATES, assert_equal, batches_of, corpus, opened
from tests.data.remote_server import Faults, ServerProcess, remote_yaml, wait_for

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create", "ignore:This process .* is multi-threaded"
)


@pytest.mark.parametrize("block, nodes", [(None, 1), (7, 1), (7, 8)])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_same_batches_from_a_web_server(files, local, web, tmp_path, block, nodes, workers):
    data = remote_yaml(files, tmp_path / "yaml", web.url, block)
    assert_equal(batches_of(data, workers, nodes), local(block))


def test_same_batches_from_s3(files, local, s3, tmp_path):
    data = remote_yaml(files, tmp_path / "yaml", "s3://bucket", 7)
    text = data.read_text().replace("train-{0..1}.tar", "train-*.tar")
    data.write_text(text)
    assert "train-*.tar" in text
    assert_equal(batches_of(data), local(7))
    assert_equal(batches_of(data, workers=2), local(7))


def test_same_batches_through_file_addresses(files, local, tmp_path):
    data = remote_yaml(files, tmp_path / "yaml", f"file://{files.parent}", 7)
    assert_equal(batches_of(data), local(7))


FAULTS = {
    "5% of requests failing": Faults(failing=0.05),
    "30% of requests failing": Faults(failing=0.3),
    "truncated answers": Faults(truncated=0.2),
    "short answers that look whole": Faults(short=0.2),
    "slow": Faults(delay=0.02),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("nodes", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_same_batches_from_a_faulty_web_server(files, local, web, tmp_path, name, nodes):
    web.faults = FAULTS[name]
    assert_equal(batches_of(remote_yaml(files, tmp_path / "yaml", web.url, 7), nodes=nodes), local(7))
    assert name == "slow" or web.failed > 0


@pytest.mark.slow
def test_same_batches_from_a_faulty_s3(files, local, s3, tmp_path):
    s3.faults = Faults(failing=0.1, truncated=0.1)
    assert_equal(batches_of(remote_yaml(files, tmp_path / "yaml", "s3://bucket", 7)), local(7))
    assert s3.failed > 0


@pytest.mark.slow
def test_a_hanging_server_is_given_up_and_asked_again(files, local, web, tmp_path):
    data = remote_yaml(files, tmp_path / "yaml", web.url, 7, timeout=1)
    web.faults = Faults(hanging=0.05)
    assert_equal(batches_of(data), local(7))
    assert web.failed > 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_server_that_is_killed_and_comes_back(files, local, tmp_path, workers):
    server = ServerProcess(files.parent)
    try:
        task, mixture = opened(remote_yaml(files, tmp_path / "yaml", server.url, 7))
        micro_batches = MicroBatches(mixture, task.collator(), 0, 1, 1, nodes=8)
        batches = []
        for update, batch in enumerate(micro_batches.of_updates(range(UPDATES), workers)):
            batches.append(batch)
            if update in (1, 5):
                server.kill()
                threading.Timer(2, server.start).start()
                time.sleep(0.1)
        assert_equal(batches, local(7))
        wait_for(server.port)
    finally:
        server.kill()


# ---- a shard that stays away


@pytest.mark.slow
def test_a_shard_that_stays_away_ends_the_training(files, web, tmp_path):
    data = remote_yaml(files, tmp_path / "yaml", web.url, 7, retry_seconds=1)
    opened(data)
    web.faults = Faults(away=("captions/train-1.tar",))
    with pytest.raises(UserError, match=r"captions/train-1.tar cannot be read: .*remote.unavailable: skip"):
        batches_of(data)
    with pytest.raises(UserError, match=r"captions/train-1.tar cannot be read: .*remote.unavailable: skip"):
        batches_of(data, workers=2)


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 8])
def test_a_shard_that_was_away_while_it_was_fetched_ahead_is_read_when_it_is_needed(files, web, tmp_path, nodes):
    """However soon after: that the last request failed says nothing of this one."""
    _, mixture = opened(remote_yaml(files, tmp_path / "yaml", web.url, 7, retry_seconds=2))
    mixture.spread_over(nodes)
    captions = corpus(mixture, "captions")
    web.faults = Faults(away=(".tar",))
    with pytest.raises(UserError, match="cannot be read"):
        captions.prepare([1, 30])
    web.faults = Faults()
    captions.prepare([1, 30])
    assert [len(captions[number].images) for number in (1, 30)] == [1, 1]


@pytest.mark.parametrize("nodes", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_shard_that_stays_away_is_skipped_and_counted_if_wanted(files, local, web, tmp_path, nodes):
    data = remote_yaml(files, tmp_path / "yaml", web.url, 7, retry_seconds=1, unavailable="skip")
    task, mixture = opened(data, max_skipped_rate=1.0)
    web.faults = Faults(away=("captions/train-1.tar",))
    begin = time.monotonic()
    micro_batches = MicroBatches(mixture, task.collator(), 0, 1, 1, nodes)
    batches = list(micro_batches.of_updates(range(UPDATES), 0))
    skipped = task.skips.skipped
    assert skipped > 0 and time.monotonic() - begin < 60
    missing = sum(int(expected["images"].shape[0]) for expected in local(7)) - sum(
        int(batch["images"].shape[0]) for batch in batches
    )
    assert skipped == missing  # a caption has one image
    web.faults = Faults()
    time.sleep(1.1)
    assert_equal(list(micro_batches.of_updates(range(UPDATES), 0)), local(7))


@pytest.mark.slow
def test_a_shard_that_stays_away_counts_towards_the_rate_of_broken_records(files, web, tmp_path):
    data = remote_yaml(files, tmp_path / "yaml", web.url, retry_seconds=0.1, unavailable="skip")
    task, mixture = opened(data)
    web.faults = Faults(away=("captions/train-1.tar",))
    with pytest.raises(UserError, match=r"more than --max-skipped-rate 0.05 allows.*shard not available"):
        list(MicroBatches(mixture, task.collator(), 0, 1, 1).of_updates(range(40), 0))


# ---- messages


def test_no_password_is_read_from_the_yaml_or_shown(files, tmp_path):
    data = remote_yaml(files, tmp_path / "yaml", "https://me:hunter2@127.0.0.1:1/data")
    with pytest.raises(
        UserError, match=r"is given with a user or a password. Give credentials in the environment"
    ) as error:
        read_data_config(data)
    assert "hunter2" not in str(error.value) and "127.0.0.1:1/data" in str(error.value)


def test_signatures_that_storage_names_in_its_errors_are_not_shown(web):
    error = OSError(f"404 for url {web.url}/x.tar?X-Amz-Signature=hunter2&y=1 via https://me:hunter2@proxy/")
    assert redacted(str(error)) == f"404 for url {web.url}/x.tar?… via https://proxy/"


@pytest.mark.parametrize(
    "address, message",
    [
        ("ftp://host/data", "ftp://host/data/.* has the scheme ftp; known are s3, gs, http, https, hf, file"),
        ("simplecache::s3://bucket", r"chains of file systems \(::\) are not read"),
        ("https://host/x?sig=hunter2", r"https://host/x\?… is given with a query, which may be a signature"),
        ("http://127.0.0.1:1/x*", "a web server does not list its files; use braces"),
    ],
)
def test_addresses_that_are_not_read(files, tmp_path, address, message):
    with pytest.raises(UserError, match=message) as error:
        read_data_config(remote_yaml(files, tmp_path / "yaml", address))
    assert "hunter2" not in str(error.value)


def test_missing_files_are_named(files, web, s3, tmp_path):
    for number, address in enumerate((web.url + "/nothing", "s3://bucket/nothing", "s3://no-bucket")):
        with pytest.raises(UserError, match=rf"{address}/.*does not exist"):
            opened(remote_yaml(files, tmp_path / str(number), address))
    path = remote_yaml(files, tmp_path / "yaml", "s3://bucket/nothing")
    path.write_text(path.read_text().replace("train-{0..1}.tar", "train-*.tar"))
    with pytest.raises(UserError, match="which no file matches"):
        read_data_config(path)


def test_a_server_that_hides_what_is_missing(files, local, web, tmp_path):
    """As S3 does to who may not list a bucket: indexes are not there, and a tar may not be read."""
    web.faults = Faults(hides=True)
    assert_equal(batches_of(remote_yaml(files, tmp_path / "yaml", web.url, 7)), local(7))
    with pytest.raises(UserError, match=r"/nothing/captions/train-0.tar may not be read \(.*403"):
        opened(remote_yaml(files, tmp_path / "other", f"{web.url}/nothing", 7))


def test_a_server_without_ranges(files, web, tmp_path):
    web.faults = Faults(ignores_ranges=True)
    with pytest.raises(UserError, match="does not answer requests for ranges"):
        opened(remote_yaml(files, tmp_path / "yaml", web.url))


@pytest.mark.parametrize("package, scheme", [("fsspec", "http"), ("aiohttp", "http"), ("s3fs", "s3"), ("gcsfs", "gs")])
def test_missing_packages_are_named(package, scheme):
    """In a process that cannot import the package."""
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from kosmos_plugin.data.remote_files import RemoteFiles\n"
        f"RemoteFiles().info('{scheme}://bucket/file')"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    expected = "pip install gcsfs" if scheme == "gs" else 'pip install "kosmos-plugin[remote]"'
    assert f"UserError: {scheme}:// needs the package {package}: {expected}" in done.stderr
