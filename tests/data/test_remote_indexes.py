"""What is fetched of remote corpora: indexes, lengths and text once, records as blocks, and how much of each."""

import shutil
import time

import numpy as np
import pytest

from kosmos_plugin.data.micro_batches import MicroBatches
from kosmos_plugin.data.shard_index import build_index, tar_records
from kosmos_plugin.errors import UserError
from kosmos_plugin.inspection.corpus_statistics import StatisticsOptions, mixture_statistics
from kosmos_plugin.inspection.options import SequenceOptions
from tests import tiny
from tests.data.remote_corpora import assert_equal, batches_of, corpus, opened, uploaded
from tests.data.remote_server import remote_yaml, web_server
from tests.data.updates import loaded

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create", "ignore:This process .* is multi-threaded"
)


# ---- indexes, lengths, text


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
