"""Damaged files: whichever bytes are changed or missing, readers end without an error and yield only valid text."""

import base64
import json
import random
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow
import pytest
from datatrove.data import Document
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from kosmos_plugin.curation.filters.captions import ImageFilter
from kosmos_plugin.curation.filters.text import check_text
from kosmos_plugin.curation.pipeline.inputs import InputFile
from kosmos_plugin.curation.readers.caption_tables import PairColumns, ReadTable
from kosmos_plugin.curation.readers.image_index import ListImages
from kosmos_plugin.curation.readers.instructions import ReadInstructions
from kosmos_plugin.curation.readers.releases import ReadMmc4, ReadObelics
from kosmos_plugin.curation.readers.text_files import ReadTexts
from kosmos_plugin.curation.readers.web_pages import ReadHtml, ReadWarc
from kosmos_plugin.curation.recipes.captions_in_place import FilterShards
from kosmos_plugin.curation.recipes.check import CheckShards
from kosmos_plugin.errors import UserError
from tests.curation.readers import test_releases
from tests.curation.recipes import test_captions, test_text
from tests.curation.recipes.test_pages import TEXTS, html, png, write_warc

SENTENCES = test_text.sentences(20)


def text_file(ending: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        test_text.WRITERS[ending](folder / f"texts.{ending}", SENTENCES)
        return folder / f"texts.{ending}"

    return write


def instructions_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "core.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("core.jsonl", "".join(json.dumps({"inputs": s, "targets": s}) + "\n" for s in SENTENCES))
    return folder / "core.zip"


def json_array(folder: Path) -> Path:
    (folder / "texts.json").write_text(json.dumps([{"text": text} for text in SENTENCES], indent=1))
    return folder / "texts.json"


def conversations(folder: Path) -> Path:
    turns = [[{"from": "human", "value": text}, {"from": "gpt", "value": text}] for text in SENTENCES]
    (folder / "llava.json").write_text(json.dumps([{"conversations": turn} for turn in turns]))
    return folder / "llava.json"


def instructions_table(folder: Path) -> Path:
    rows = [{"instruction": text, "instances": [{"input": text, "output": text}]} for text in SENTENCES]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "core.parquet", row_group_size=5)
    return folder / "core.parquet"


def csv_table(folder: Path) -> Path:
    image = base64.b64encode(png(1)).decode()
    (folder / "a.csv").write_text("image,caption\n" + "".join(f'{image},"{text}"\n' for text in SENTENCES))
    return folder / "a.csv"


def pairs_in_json(folder: Path) -> Path:
    image = base64.b64encode(png(1)).decode()
    (folder / "a.jsonl").write_text("".join(json.dumps({"image": image, "caption": t}) + "\n" for t in SENTENCES))
    return folder / "a.jsonl"


def crawl(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        page = html(TEXTS[0], "/a.png", TEXTS[1]).encode()
        pages = [(f"http://a.example/{number}", "text/html", page) for number in range(3)]
        write_warc(folder / name, [("http://a.example/a.png", "image/png", png(1)), *pages])
        return folder / name

    return write


def page(folder: Path) -> Path:
    (folder / "page.html").write_text(html(*TEXTS, "a.png", TEXTS[0]))
    return folder / "page.html"


def tsv(folder: Path) -> Path:
    test_captions.write_tsv(folder / "release")
    return folder / "release" / "part-00.tsv"


def pairs_table(folder: Path) -> Path:
    test_captions.write_parquet(folder / "release")
    return folder / "release" / "00000.parquet"


def pairs_tar(folder: Path) -> Path:
    test_captions.write_tars(folder)
    return folder / "00000.tar"


def filter_shards(files: list[InputFile], folder: Path) -> Iterable[Document]:
    return FilterShards(files, folder, "of this test", [ImageFilter(0, None, decode=True)], "txt").run()


CASES = {
    "jsonl": (text_file("jsonl"), lambda files, _: ReadTexts(files).run()),
    "jsonl.gz": (text_file("jsonl.gz"), lambda files, _: ReadTexts(files).run()),
    "jsonl.zst": (text_file("jsonl.zst"), lambda files, _: ReadTexts(files).run()),
    "jsonl.bz2": (text_file("jsonl.bz2"), lambda files, _: ReadTexts(files).run()),
    "jsonl.xz": (text_file("jsonl.xz"), lambda files, _: ReadTexts(files).run()),
    "parquet": (text_file("parquet"), lambda files, _: ReadTexts(files).run()),
    "txt": (text_file("txt"), lambda files, _: ReadTexts(files, separator="").run()),
    "json array": (json_array, lambda files, _: ReadTexts(files).run()),
    "conversations": (conversations, lambda files, _: ReadInstructions(files).run()),
    "instructions in parquet": (
        instructions_table,
        lambda files, _: ReadInstructions(files).run(),
    ),
    "pairs in csv": (csv_table, lambda files, _: ReadTable(files, "csv", PairColumns()).run()),
    "pairs in json lines": (pairs_in_json, lambda files, _: ReadTable(files, "json", PairColumns()).run()),
    "instructions": (instructions_zip, lambda files, _: ReadInstructions(files).run()),
    "tsv": (tsv, lambda files, _: ReadTable(files, "tsv", PairColumns()).run()),
    "pairs in parquet": (pairs_table, lambda files, _: ReadTable(files, "parquet", PairColumns()).run()),
    "pairs in a tar": (pairs_tar, filter_shards),
    "check": (pairs_tar, lambda files, folder: CheckShards(files, folder, True).run()),
    "warc": (crawl("crawl.warc"), lambda files, _: ReadWarc(files, 10**6).run()),
    "warc.gz": (crawl("crawl.warc.gz"), lambda files, _: ReadWarc(files, 10**6).run()),
    "images of a warc": (crawl("crawl.warc.gz"), lambda files, folder: ListImages(files, folder).run()),
    "images of a tar": (pairs_tar, lambda files, folder: ListImages(files, folder).run()),
    "html": (page, lambda files, _: ReadHtml(files, 10**6, "/").run()),
    "MMC4": (test_releases.write_mmc4_zip, lambda files, _: ReadMmc4(files).run()),
    "OBELICS": (test_releases.write_obelics, lambda files, _: ReadObelics(files).run()),
}

# ValidTextFilter drops invalid text.
PAGES = ("warc", "warc.gz", "html", "MMC4", "OBELICS")


@st.composite
def damage(draw) -> Callable[[bytes], bytes]:
    """Draws changes of bytes, and a missing end or middle."""
    position = st.floats(0, 1, exclude_max=True)
    changes = draw(st.lists(st.tuples(position, st.binary(min_size=1, max_size=8)), max_size=4))
    missing = draw(st.none() | st.tuples(position, position))

    def damaged(data: bytes) -> bytes:
        changed = bytearray(data)
        for at, new_bytes in changes:
            start = int(at * len(data))
            changed[start : start + len(new_bytes)] = new_bytes
        if missing is not None:
            start, end = sorted(int(at * len(data)) for at in missing)
            del changed[start:end]
        return bytes(changed)

    return damaged


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged=damage())
def test_damaged_files_end_where_they_break(tmp_path_factory, case, damaged):
    write, read = CASES[case]
    folder = tmp_path_factory.mktemp("damaged")
    file = write(folder)
    file.write_bytes(damaged(file.read_bytes()))
    for document in read([InputFile(str(file), file.stat().st_size)], folder / "out"):
        if case not in PAGES:
            check_text(document.text)


TEXT_CASES = [
    case for case in CASES if case not in PAGES and " of a " not in case and "tar" not in case and case != "check"
]


@pytest.mark.parametrize("case", TEXT_CASES)
def test_thousands_of_damaged_files(tmp_path, case):
    """A fixed sample of damage, hundreds of files a format: flipped bits, runs of zeros, missing and doubled parts."""
    write, read = CASES[case]
    file = write(tmp_path)
    whole = file.read_bytes()
    rng = random.Random(case)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(data) or 1)
            end = min(len(data), start + rng.choice([1, 4, 100, len(whole)]))
            kind = rng.randrange(5)
            if kind == 0:
                data[start:end] = bytes(byte ^ 1 << rng.randrange(8) for byte in data[start:end][:4])
            elif kind == 1:
                data[start:end] = rng.randbytes(min(end - start, 200))
            elif kind == 2:
                data[start:end] = bytes(end - start)
            elif kind == 3:
                del data[start:end]
            else:
                data[start:start] = data[start:end]
        file.write_bytes(data)
        try:
            documents = list(read([InputFile(str(file), len(data))], tmp_path / "out"))
        except UserError:
            continue  # one line
        for document in documents:
            check_text(document.text)


def test_undamaged_files_are_read(tmp_path):
    """Before they are damaged, the files of the test above can be read."""
    for case in CASES:
        write, read = CASES[case]
        (tmp_path / case).mkdir()
        file = write(tmp_path / case)
        documents = list(read([InputFile(str(file), file.stat().st_size)], tmp_path / case / "out"))
        assert documents or case in ("pairs in a tar", "check", "images of a warc", "images of a tar")
