"""Damaged files: whichever bytes are changed or missing, readers end without an error and yield only valid text."""

import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from datatrove.data import Document
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    return FilterShards(files, folder, "of this test", [ImageFilter(0, None, decode=True)]).run()


CASES = {
    "jsonl": (text_file("jsonl"), lambda files, _: ReadTexts(files).run()),
    "jsonl.gz": (text_file("jsonl.gz"), lambda files, _: ReadTexts(files).run()),
    "jsonl.zst": (text_file("jsonl.zst"), lambda files, _: ReadTexts(files).run()),
    "jsonl.bz2": (text_file("jsonl.bz2"), lambda files, _: ReadTexts(files).run()),
    "jsonl.xz": (text_file("jsonl.xz"), lambda files, _: ReadTexts(files).run()),
    "parquet": (text_file("parquet"), lambda files, _: ReadTexts(files).run()),
    "txt": (text_file("txt"), lambda files, _: ReadTexts(files, separator="").run()),
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


def test_undamaged_files_are_read(tmp_path):
    """Before they are damaged, the files of the test above can be read."""
    for case in CASES:
        write, read = CASES[case]
        (tmp_path / case).mkdir()
        file = write(tmp_path / case)
        documents = list(read([InputFile(str(file), file.stat().st_size)], tmp_path / case / "out"))
        assert documents or case in ("pairs in a tar", "check", "images of a warc", "images of a tar")
