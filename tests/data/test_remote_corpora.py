"""Training data on remote storage: the same batches as from the disk, bit for bit, whatever the storage does."""

import shutil
import threading
import time
from pathlib import Path

import pytest
import yaml

from kosmos_plugin.data.micro_batches import MicroBatches
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.open_corpora import open_corpora
from tests import tiny
from tests.data.remote_server import Faults, s3_server, upload, web_server
from tests.data.updates import assert_same, loaded

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create", "ignore:This process .* is multi-threaded"
)
UPDATES = 12


def remote_yaml(data: Path, folder: Path, address: str, block: int | None = None, **remote: object) -> Path:
    """The data YAML `data` in a new folder, its files at an address ("": as they are) and its cache beside it."""
    config = yaml.safe_load(data.read_text())
    config["vocabulary"] = str(data.parent / "vocabulary")
    for stream in config["streams"].values():
        for corpus in stream["corpora"]:
            for split in ("train", "valid"):
                corpus[split] = f"{address or data.parent}/{corpus[split]}"
            if block is not None and stream["kind"] != "text":
                corpus["shuffle_block"] = block
    config["cache"] = str(folder / "cache")
    if address:
        config["remote"] = {"timeout": 10, "retry_seconds": 60, **remote}
    folder.mkdir(parents=True)
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(config))
    shutil.copy(data.parent / "clip.json", folder)
    return path


def opened(data: Path):
    """Make what is made when a training starts, then load the data."""
    task = tiny.task(data)
    open_corpora(task.cfg)
    return loaded(data)


def batches_of(data: Path, workers: int = 0, nodes: int = 1, updates: int = UPDATES) -> list:
    task, mixture = opened(data)
    micro_batches = MicroBatches(mixture, task.collator(), 0, 1, 1, nodes)
    return list(micro_batches.of_updates(range(updates), workers))


def assert_equal(first: list, second: list) -> None:
    for batch, expected in zip(first, second, strict=True):
        assert_same(batch, expected)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Data in a folder of its own, without any index."""
    return tiny.write_data(tmp_path_factory.mktemp("storage") / "data")


@pytest.fixture(scope="module")
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


@pytest.mark.parametrize("block, nodes", [(None, 1), (7, 1), (7, 8)])
@pytest.mark.parametrize("workers", [0, 2])
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
@pytest.mark.parametrize("nodes", [1, 8])
def test_same_batches_from_a_faulty_web_server(files, local, web, tmp_path, name, nodes):
    web.faults = FAULTS[name]
    assert_equal(batches_of(remote_yaml(files, tmp_path / "yaml", web.url, 7), nodes=nodes), local(7))
    assert name == "slow" or web.failed > 0


def test_same_batches_from_a_faulty_s3(files, local, s3, tmp_path):
    s3.faults = Faults(failing=0.1, truncated=0.1)
    assert_equal(batches_of(remote_yaml(files, tmp_path / "yaml", "s3://bucket", 7)), local(7))
    assert s3.failed > 0


def test_a_hanging_server_is_given_up_and_asked_again(files, local, web, tmp_path):
    data = remote_yaml(files, tmp_path / "yaml", web.url, 7, timeout=1)
    web.faults = Faults(hanging=0.05)
    assert_equal(batches_of(data), local(7))
    assert web.failed > 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_that_is_killed_and_comes_back(files, local, web, tmp_path, workers):
    data = remote_yaml(files, tmp_path / "yaml", web.url, 7)
    task, mixture = opened(data)
    shutil.rmtree(tmp_path / "yaml" / "cache" / "blocks", ignore_errors=True)
    batches = []
    micro_batches = MicroBatches(mixture, task.collator(), 0, 1, 1, nodes=8)
    for update, batch in enumerate(micro_batches.of_updates(range(UPDATES), workers)):
        batches.append(batch)
        if update in (1, 5):
            web.stop()
            threading.Timer(2, web.start).start()
    assert_equal(batches, local(7))
    time.sleep(2)


# ---- a shard that stays away


def test_a_shard_that_stays_away_ends_the_training(files, web, tmp_path):
    data = remote_yaml(files, tmp_path / "yaml", web.url, 7, retry_seconds=1)
    opened(data)
    web.faults = Faults(away=("captions/train-1.tar",))
    with pytest.raises(UserError, match=r"captions/train-1.tar cannot be read: .*remote.unavailable: skip"):
        batches_of(data)
    with pytest.raises(UserError, match=r"captions/train-1.tar cannot be read: .*remote.unavailable: skip"):
        batches_of(data, workers=2)


@pytest.mark.parametrize("nodes", [1, 8])
def test_a_shard_that_stays_away_is_skipped_and_counted_if_wanted(files, local, web, tmp_path, nodes):
    data = remote_yaml(files, tmp_path / "yaml", web.url, 7, retry_seconds=1, unavailable="skip")
    task, mixture = opened(data)
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
