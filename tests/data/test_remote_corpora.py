"""Training data on remote storage: the same batches as from the disk, bit for bit, whatever the storage does."""

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from kosmos_plugin.data.config import read_data_config
from kosmos_plugin.data.micro_batches import MicroBatches
from kosmos_plugin.data.remote_files import redacted
from kosmos_plugin.data.shard_index import build_index, tar_records
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.open_corpora import open_corpora
from kosmos_plugin.inspection.corpus_statistics import StatisticsOptions, mixture_statistics
from kosmos_plugin.inspection.options import SequenceOptions
from tests import tiny
from tests.data.remote_server import Faults, ServerProcess, remote_yaml, s3_server, upload, wait_for, web_server
from tests.data.updates import assert_same, loaded

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create", "ignore:This process .* is multi-threaded"
)
UPDATES = 12


def opened(data: Path, **options: object):
    """Make what is made when a training starts, then load the data."""
    open_corpora(tiny.task(data).cfg)
    return loaded(data, **options)


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


# ---- indexes, lengths, text


def corpus(mixture, name: str):
    """The corpus of the stream `name`."""
    return next(stream.corpora[0] for stream in mixture.streams if stream.config.name == name)


def uploaded(files: Path, folder: Path) -> Path:
    """The data with the indexes, lengths and row starts that are made when it is opened on the disk."""
    shutil.copytree(files.parent, folder)
    opened(folder / "data.yaml")
    return folder


@pytest.mark.slow
def test_indexes_lengths_and_rows_beside_the_data_are_copied(files, local, tmp_path):
    """No tar is read to make them, and the second start copies nothing."""
    with web_server(uploaded(files, tmp_path / "storage")) as server:
        data = remote_yaml(files, tmp_path / "yaml", server.url, 7)
        opened(data)
        assert not server.bytes_of(".tar")
        assert {path.rpartition(".")[2] for path, _ in server.requests} == {
            "kosmos_index", "kosmos_lengths", "bin", "idx", "rows"
        }  # fmt: skip
        server.forget()
        opened(data)
        assert sum(size for path, size in server.requests) <= len(server.requests)  # sizes were asked for
        assert_equal(batches_of(data), local(7))


def test_missing_indexes_are_made_in_the_cache(files, web, tmp_path):
    """By reading each tar about twice: for its index, and for the lengths of its records."""
    opened(remote_yaml(files, tmp_path / "yaml", web.url, 7))
    size = sum(path.stat().st_size for path in files.parent.rglob("*.tar"))
    assert 1.5 * size < web.bytes_of(".tar") < 2.1 * size
    kinds = {path.suffix for path in (tmp_path / "yaml" / "cache").iterdir() if path.is_file()}
    assert kinds == {".kosmos_index", ".kosmos_lengths"}


def test_the_index_of_selected_records_beside_a_remote_tar_counts(files, tmp_path):
    """What kosmos-prepare captions has dropped is not trained on."""
    folder = tmp_path / "storage"
    shutil.copytree(files.parent, folder)
    tar = folder / "captions" / "train-0.tar"
    records, _ = tar_records(tar)
    build_index(tar, records[:5], "a selection")
    with web_server(folder) as server:
        data = remote_yaml(files, tmp_path / "yaml", server.url)
        _, mixture = opened(data)
        assert len(corpus(mixture, "captions")) == 25
        with open(tar, "ab") as file:
            file.write(bytes(10240))
        shutil.rmtree(tmp_path / "yaml" / "cache")
        with pytest.raises(UserError, match=r"train-0.tar has changed since kosmos-prepare captions filtered it"):
            opened(data)


@pytest.mark.parametrize("damage", ["index", "corpus index", "lengths"])
def test_damaged_files_beside_the_data(files, local, tmp_path, damage):
    folder = uploaded(files, tmp_path / "storage")
    if damage == "index":
        for path in folder.rglob("captions/*.kosmos_index"):
            path.unlink()
        path = folder / "captions" / "train-0.tar.kosmos_index"
        build_index(folder / "captions" / "train-0.tar")
    else:
        pattern = "captions/train-*.kosmos_index" if damage == "corpus index" else "captions/train-*.kosmos_lengths"
        (path,) = folder.glob(pattern)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if damage == "index" else 20] ^= 1
    path.write_bytes(content)
    with web_server(folder) as server:
        data = remote_yaml(files, tmp_path / "yaml", server.url, 7)
        if damage == "lengths":  # they are counted again
            assert_equal(batches_of(data), local(7))
        else:
            with pytest.raises(
                UserError, match=rf"{server.url}/captions/train-.*kosmos_index.*(damaged|cannot be used)"
            ):
                opened(data)


def test_a_new_index_on_the_storage_is_copied_again(files, tmp_path):
    folder = uploaded(files, tmp_path / "storage")
    with web_server(folder) as server:
        data = remote_yaml(files, tmp_path / "yaml", server.url)
        assert len(corpus(opened(data)[1], "captions")) == 40
        (path,) = (folder / "captions").glob("train-*.kosmos_index")
        path.unlink()
        tar = folder / "captions" / "train-0.tar"
        build_index(tar, tar_records(tar)[0][:3])
        opened(folder / "data.yaml")
        assert len(corpus(opened(data)[1], "captions")) == 23


def test_a_tar_that_has_changed_is_an_error(files, tmp_path):
    folder = uploaded(files, tmp_path / "storage")
    with web_server(folder) as server:
        data = remote_yaml(files, tmp_path / "yaml", server.url, 7)
        opened(data)
        with open(folder / "captions" / "train-0.tar", "ab") as file:
            file.write(bytes(10240))
        with pytest.raises(UserError, match=r"captions/train-0.tar has changed since .*kosmos_index was made"):
            batches_of(data)


def test_text_is_copied_once_and_again_if_it_changes(files, tmp_path):
    folder = tmp_path / "storage"
    shutil.copytree(files.parent, folder)
    with web_server(folder) as server:
        data = remote_yaml(files, tmp_path / "yaml", server.url)
        rows = len(corpus(opened(data)[1], "text"))
        opened(data)
        size = sum((folder / "text" / f"{split}.bin").stat().st_size for split in ("train", "valid"))
        assert size <= server.bytes_of(".bin") <= size + 20  # and asked for their sizes
        for suffix in (".bin", ".idx"):
            shutil.copy(folder / "text" / f"valid{suffix}", folder / "text" / f"train{suffix}")
        assert len(corpus(opened(data)[1], "text")) < rows


def test_statistics_and_documents_of_remote_data_are_those_of_local_data(files, web, tmp_path):
    """What kosmos-prepare stats and show are made of."""
    folder = tmp_path / "storage"
    shutil.copytree(files.parent, folder)
    data = remote_yaml(files, tmp_path / "yaml", web.url, 7)
    training = SequenceOptions(image_tokens=tiny.IMAGE_TOKENS, tokens_per_sample=tiny.TOKENS_PER_SAMPLE)
    local_data = remote_yaml(folder / "data.yaml", tmp_path / "disk", "", 7)
    options = StatisticsOptions(documents=10, out=str(tmp_path))
    made = [mixture_statistics(str(path), training, options) for path in (data, local_data)]
    samples = [[corpus.sample for stream in statistics for corpus in stream.corpora] for statistics in made]
    assert samples[0] == samples[1] and samples[0][0]


def test_a_look_at_documents_whose_lengths_are_not_known_fetches_them_together(files, tmp_path):
    """As kosmos-inspect does: all 40 captions take a request for each tar, not for each record."""
    folder = tmp_path / "storage"
    shutil.copytree(files.parent, folder)
    for tar in folder.rglob("*.tar"):
        build_index(tar)
    with web_server(folder) as server:
        data = remote_yaml(files, tmp_path / "yaml", server.url)
        captions = corpus(loaded(data)[1], "captions")
        server.forget()
        lengths = captions.lengths(np.arange(40))
        assert len([size for _, size in server.requests if size > 1]) == 2
    opened(folder / "data.yaml")
    assert (corpus(loaded(folder / "data.yaml")[1], "captions").lengths(np.arange(40)) == lengths).all()


# ---- how much is fetched


@pytest.mark.parametrize("nodes, most", [(1, 1.0), (2, 2.0), pytest.param(8, 2.0, marks=pytest.mark.slow)])
def test_bytes_fetched_for_bytes_used(files, tmp_path, nodes, most):
    """An epoch, on all nodes together; each has its own cache. Headers of the tar and records are about 1,500 bytes."""
    folder = uploaded(files, tmp_path / "storage")
    used = sum(path.stat().st_size for path in folder.glob("captions/train-*.tar"))
    with web_server(folder) as server:
        for rank in range(nodes):
            data = remote_yaml(files, tmp_path / f"node{rank}", server.url, 7)
            task, mixture = opened(data)
            server.faults.away = ("interleaved/nothing",)
            micro_batches = MicroBatches(mixture, task.collator(), rank, nodes, 1, nodes)
            for _ in micro_batches.of_updates(range(7), 0):  # 42 of the 40 captions
                pass
        time.sleep(0.5)  # what is fetched ahead
        fetched = server.bytes_of("captions/train-0.tar") + server.bytes_of("captions/train-1.tar")
    assert 0.7 * used < fetched < 1.35 * most * used


@pytest.mark.slow
def test_the_blocks_of_the_next_window_are_there_before_it_begins(tmp_path):
    """140 captions in blocks of one: update 21, of 6 captions, has the last two of a window, and four of the next."""
    files = tiny.write_data(tmp_path / "files", documents=140)
    folder = uploaded(files, tmp_path / "storage")
    with web_server(folder) as server:

        def requests() -> int:
            return len([path for path, size in server.requests if "captions/train" in path and size > 1])

        task, mixture = opened(remote_yaml(files, tmp_path / "yaml", server.url, 1))
        micro_batches = MicroBatches(mixture, task.collator(), 0, 1, 1)
        server.forget()
        for update in range(21):
            micro_batches[update]
        for _ in range(200):  # until all is there that is fetched ahead
            time.sleep(0.05)
            if requests() == 21 * 6 + 12:
                break
        server.forget()
        micro_batches[21]
        assert requests() == 2


@pytest.mark.slow
def test_a_cache_that_is_too_small_for_two_windows_is_refused(files, tmp_path):
    """Of all tars twice, which are one window here; but not where whole blocks are not fetched."""
    folder = uploaded(files, tmp_path / "storage")
    size = sum(path.stat().st_size for path in folder.rglob("train-*.tar"))
    with web_server(folder) as server:
        data = remote_yaml(files, tmp_path / "yaml", server.url, 1, cache_gib=size / 2**30)
        task, mixture = opened(data)
        with pytest.raises(UserError, match=r"Two windows of .* Raise remote.cache_gib in the data YAML, or lower"):
            MicroBatches(mixture, task.collator(), 0, 1, 1)
        MicroBatches(mixture, task.collator(), 0, 8, 1, nodes=8)
        data = remote_yaml(files, tmp_path / "larger", server.url, 1, cache_gib=3 * size / 2**30)
        MicroBatches(opened(data)[1], task.collator(), 0, 1, 1)


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
