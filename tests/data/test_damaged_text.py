"""Damaged binarized text: whatever its files hold, it is read or is one line, in bounded time and memory."""

import random
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kosmos_plugin.data.binarized import BinarizedItems
from kosmos_plugin.data.text import TEXT_ROWS, FullSentenceRows
from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.eval_lm import ScoringBatches
from kosmos_plugin.inspection.corpus_statistics import mixture_statistics
from kosmos_plugin.inspection.options import InputOptions, ShowOptions, StatisticsOptions
from kosmos_plugin.inspection.random_documents import documents_report
from tests import tiny

WIDTH = 16
NUMBERS = (0, 1, -1, 3, 2**15, 2**31 - 1, -(2**31), 10**12, 2**62, 2**63, 2**64 - 1)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return tiny.write_vocabulary(tmp_path_factory.mktemp("damaged") / "vocabulary")


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Numbers, bits and runs of bytes changed, cut out, doubled or moved, half of them in the header."""
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(min(rng.choice((40, len(data))), len(data)))
        length = rng.choice((1, 2, 4, 8, 12, len(data)))
        match rng.randrange(7):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS) % 2**64)
            case 2:
                data[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS) % 2**32)
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length]
            case 5:
                other = rng.randrange(len(data))
                data[at : at + 8], data[other : other + 8] = data[other : other + 8], data[at : at + 8]
            case 6:
                data[17:18] = bytes([rng.randrange(12)])  # the token type
        if not data:
            break
    return bytes(data)


def write_documents(folder: Path, vocabulary, eos: bool) -> Path:
    """A text of 30 documents, the first of them empty."""
    rng = random.Random(0)
    documents = [[]] + [tiny.encoded_lines(vocabulary, tiny.sentence(rng, (1, 20)).split()) for _ in range(29)]
    tiny.write_text(folder / "text", documents, vocabulary.eos if eos else None)
    return folder / "text"


def read_all(prefix: Path, vocabulary, packing: str) -> None:
    """Open the rows and read each; open them again, with the row starts that are there now."""
    for _ in range(2):
        rows = TEXT_ROWS[packing](str(prefix), vocabulary, WIDTH)
        assert rows.num_tokens >= rows.num_targets >= 0
        for row in range(len(rows)):
            sample = rows[row]
            assert 0 < len(sample.tokens) <= WIDTH and len(sample.tokens) == len(sample.targets)
    for item in range(len(rows.items)):
        rows.items[item]


@pytest.mark.parametrize("eos", [True, False], ids=["with </s>", "without </s>"])
@pytest.mark.parametrize(
    "suffix, packing",
    [*((suffix, packing) for suffix in (".idx", ".bin") for packing in TEXT_ROWS), (".rows", "full_sentences")],
)
def test_a_damaged_file_is_read_or_is_one_line(vocabulary, tmp_path, suffix, packing, eos):
    """3,000 files in all."""
    prefix = write_documents(tmp_path, vocabulary, eos)
    read_all(prefix, vocabulary, "full_sentences")
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    [path] = [path for path in whole if path.suffix == suffix]
    rng, refused = random.Random(f"{suffix} {eos} {packing}"), 0
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for case in range(300):
        for other, content in whole.items():
            if other.suffix != ".rows" or rng.random() < 0.5 or suffix == ".rows":
                other.write_bytes(content)
            else:
                other.unlink(missing_ok=True)  # made of the damaged text
        path.write_bytes(damaged(whole[path], rng))
        try:
            read_all(prefix, vocabulary, packing)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and str(prefix) in str(error), case
        except Exception as error:
            raise AssertionError(f"case {case}: {error!r}") from error
    if suffix == ".idx":
        assert refused > 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # kB
    assert time.process_time() - start < 60


def test_an_index_of_megatron(vocabulary, tmp_path):
    """Megatron-LM's index has the same magic word and version, a second count and a list of documents."""
    sizes, pointers, documents = np.array([2, 3], np.int32), np.array([0, 4], np.int64), np.array([0, 1, 2], np.int64)
    header = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, len(sizes), len(documents))
    (tmp_path / "text.idx").write_bytes(header + sizes.tobytes() + pointers.tobytes() + documents.tobytes())
    (tmp_path / "text.bin").write_bytes(np.arange(5, 10, dtype=np.uint16).tobytes())
    with pytest.raises(UserError, match=r"text\.idx is damaged, or of Megatron-LM.*kosmos-prepare text"):
        FullSentenceRows(str(tmp_path / "text"), vocabulary, WIDTH)


def test_data_of_another_run(vocabulary, tmp_path):
    prefix = write_documents(tmp_path, vocabulary, eos=True)
    with open(f"{prefix}.bin", "ab") as file:
        file.write(b"\5\0")
    with pytest.raises(UserError, match=r"text\.bin is longer than its index says"):
        FullSentenceRows(str(prefix), vocabulary, WIDTH)


@pytest.mark.parametrize("packing", TEXT_ROWS)
def test_pointers_that_overflowed(vocabulary, tmp_path, packing):
    """As fairseq-preprocess with several workers and NumPy 2 wrote those behind 2 GiB."""
    prefix = write_documents(tmp_path, vocabulary, eos=False)
    items = BinarizedItems(str(prefix))
    pointers = items.pointers.copy()
    pointers[20:-1] -= 2**32
    index = Path(f"{prefix}.idx").read_bytes()
    Path(f"{prefix}.idx").write_bytes(index[: -pointers.nbytes] + pointers.tobytes())
    with pytest.raises(UserError, match=r"text\.idx is damaged: its item \d+ does not begin"):
        read_all(prefix, vocabulary, packing)


def test_commands_on_damaged_text(data, tmp_path):
    """Statistics, random documents, training batches and fairseq-eval-lm's batches."""
    path, task = tiny.text_data(data, tmp_path), tiny.task(data)
    prefix = tmp_path / "text" / "train"
    prefix.parent.mkdir()
    whole = {suffix: (data.parent / f"text/train{suffix}").read_bytes() for suffix in (".bin", ".idx")}
    path.write_text(path.read_text().replace(str(data.parent / "text/train"), str(prefix)))
    training = InputOptions(image_tokens=tiny.IMAGE_TOKENS, tokens_per_sample=tiny.TOKENS_PER_SAMPLE)

    def train() -> None:
        other = tiny.task(path)
        other.load_dataset("train")
        ScoringBatches(other.dataset("train"), task.vocabulary, 1, 0)[0]
        batches = other.get_batch_iterator(other.dataset("train"), max_sentences=100).micro_batches
        for batch in range(3):
            batches[batch]

    readers: list[Callable[[], object]] = [
        train,
        lambda: mixture_statistics(str(path), training, StatisticsOptions(out=tmp_path / "out")),
        lambda: documents_report(str(path), training, ShowOptions(out=tmp_path / "page.html")),
    ]
    rng, refused = random.Random(1), 0
    for case in range(150):
        for suffix, content in whole.items():
            prefix.with_suffix(suffix).write_bytes(content)
        suffix = rng.choice(list(whole))
        prefix.with_suffix(suffix).write_bytes(damaged(whole[suffix], rng))
        for read in readers:
            try:
                read()
            except UserError as error:
                refused += 1
                assert "\n" not in str(error)
            except Exception as error:
                raise AssertionError(f"case {case}: {error!r}") from error
    assert refused > 30
