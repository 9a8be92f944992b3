"""Evaluation data in the forms and encodings of its releases: planted in a text, each item is found."""

import csv
import gzip
import io
import json
import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from datatrove.data import Document
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from kosmos_plugin.curation.filters.contamination import ContaminationFilter
from kosmos_plugin.curation.pipeline.inputs import InputFile, find_inputs
from kosmos_plugin.curation.readers.evaluation_files import write_ngrams
from kosmos_plugin.errors import UserError
from tests import tiny

_RNG = random.Random(0)
ITEMS = [f"{tiny.sentence(_RNG, (13, 30))} café {tiny.sentence(_RNG, (13, 20))}" for _ in range(6)]
OTHERS = [tiny.sentence(_RNG, (40, 60)) for _ in range(6)]


def broken(text: str) -> str:
    """The text with line ends and runs of spaces between its words."""
    words = text.split()
    return "\n" + "".join(f"{word}{'  ' if i % 3 else chr(10)}" for i, word in enumerate(words))


def xml(encoding: str) -> bytes:
    """Schemas as in WSCollection.xml: three parts of a sentence, each broken over lines."""
    root = ElementTree.Element("collection")
    for item in ITEMS:
        words = item.split()
        text = ElementTree.SubElement(ElementTree.SubElement(root, "schema"), "text")
        for tag, part in {"txt1": words[:9], "pron": words[9:10], "txt2": words[10:]}.items():
            ElementTree.SubElement(text, tag).text = broken(" ".join(part))
    return ElementTree.tostring(root, encoding, xml_declaration=True)


def table(delimiter: str, **more) -> str:
    """A story in the cells of a row, as in StoryCloze; a cell holds line ends and delimiters."""
    rows = io.StringIO(newline="")
    writer = csv.writer(rows, delimiter=delimiter, **more)
    writer.writerow(["InputStoryid", "InputSentence1", "InputSentence2", "AnswerRightEnding"])
    for number, item in enumerate(ITEMS):
        words = item.split()
        writer.writerow([f"138d5bfb-{number}", " ".join(words[:10]) + ",", " ".join(words[10:]), 1])
    return rows.getvalue()


def columns() -> bytes:
    target = io.BytesIO()
    parquet.write_table(pyarrow.table({"question": ITEMS, "answers": [["no", "yes"]] * 6}), target)
    return target.getvalue()


LINES = "".join(json.dumps({"question": item, "answers": ["no"]}, ensure_ascii=False) + "\n" for item in ITEMS)
RELEASES: dict[str, Callable[[], bytes]] = {
    "latin.xml": lambda: xml("ISO-8859-1"),
    "utf8.xml": lambda: xml("utf-8"),
    "utf16.xml": lambda: xml("utf-16"),
    "stories.csv": lambda: table(",").encode(),
    "windows.csv": lambda: table(",").encode("cp1252"),
    "excel.csv": lambda: table(";").encode("utf-8-sig"),
    "stories.tsv": lambda: table("\t").encode(),
    "unicode.txt": lambda: table("\t").encode("utf-16"),
    "lines.jsonl": lambda: LINES.encode(),
    "blank-lines.jsonl": lambda: LINES.replace("\n", "\r\n\r\n").encode("utf-8-sig"),
    "lines-in.json": lambda: LINES.encode(),
    "object.json": lambda: json.dumps({"data": [{"paragraphs": [{"context": item}]} for item in ITEMS]}).encode(),
    "array.jsonl": lambda: json.dumps(ITEMS, indent=1).encode(),
    "lines.ndjson": lambda: LINES.encode(),
    "packed.jsonl.gz": lambda: gzip.compress(LINES.encode()),
    "table.parquet": columns,
    "lines.txt": lambda: "\n".join(ITEMS).encode(),
    "wrapped.txt": lambda: "\n\n".join(map(broken, ITEMS)).encode("latin-1"),
    "valid.lst": lambda: "\n".join(ITEMS).encode(),
}


def found(folder: Path, *files: Path) -> list[bool]:
    """Whether each item, and then each other text, is found in the middle of a document."""
    write_ngrams([InputFile(str(file), None) for file in files], folder / "ngrams.npz")
    filter = ContaminationFilter(folder / "ngrams.npz")
    documents = [Document(f"the end. {text} a new start", "") for text in [*ITEMS, *OTHERS]]
    return [filter.filter(document) is not True for document in documents]


@pytest.mark.parametrize("name", RELEASES)
def test_items_of_every_form_are_found(tmp_path, name):
    (tmp_path / name).write_bytes(RELEASES[name]())
    assert found(tmp_path, tmp_path / name) == [True] * 6 + [False] * 6


def test_the_shortest_winograd_schemas_are_found(tmp_path):
    """As in WSCollection.xml; numbers 237 and 238 of its first 273 have 7 words, all others 8 or more."""
    schemas = "".join(
        "<schema>\n<text>\n<txt1>\nLily spoke to Donna, breaking </txt1>\n<pron> her </pron>\n"
        f"<txt2> {end}. \n</txt2>\n</text>\n<quote>\n<quote1>breaking</quote1>\n<pron>her </pron>\n</quote>\n"
        "<answers>\n<answer>Lily </answer>\n"
        "<answer>Donna </answer>\n</answers>\n<correctAnswer> A  </correctAnswer>\n</schema>\n\n"
        for end in ("silence", "concentration")
    )
    head = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<?xml-stylesheet type="text/xsl" href="WSExample.xsl"?>\n'
    file = tmp_path / "WSCollection.xml"
    file.write_text(f"{head}<collection>\n{schemas}</collection>\n", encoding="iso-8859-1")
    write_ngrams([InputFile(str(file), None)], tmp_path / "ngrams.npz")
    filter = ContaminationFilter(tmp_path / "ngrams.npz")
    for end in ("silence", "concentration"):
        document = Document(f"Here it is. Lily spoke to Donna, breaking her {end}. Then she left.", "")
        assert filter.filter(document) is not True
    assert filter.filter(Document("Lily spoke to Donna, breaking her pencil. Then she left.", "")) is True


def test_seven_words_that_are_no_sentence_remove_nothing(tmp_path):
    (tmp_path / "endings.jsonl").write_text(json.dumps({"ending": "gets up and walks out of frame."}))
    write_ngrams([InputFile(str(tmp_path / "endings.jsonl"), None)], tmp_path / "ngrams.npz")
    filter = ContaminationFilter(tmp_path / "ngrams.npz")
    assert filter.filter(Document("Then he gets up and walks out of frame.", "")) is True


def test_a_blank_is_filled_with_the_options(tmp_path):
    """Winogrande's sentences have fewer than 13 words on either side of the blank."""
    words = ITEMS[0].split()[:18]
    record = {
        "sentence": " ".join([*words[:9], "_", *words[10:]]),
        "option1": "nobody",
        "option2": words[9],
        "answer": "2",
    }
    (tmp_path / "dev.jsonl").write_text(json.dumps(record) + "\n")
    assert found(tmp_path, tmp_path / "dev.jsonl") == [True] + [False] * 11


def test_a_release_folder_with_images(tmp_path, capsys):
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "0.png").write_bytes(tiny.png(random.Random(0)))
    (tmp_path / "release" / "labels.csv").write_text("0.png,cat\n")
    (tmp_path / "release" / "dev.jsonl").write_text(LINES)
    files = [Path(file.path) for file in find_inputs([str(tmp_path / "release")])]
    assert found(tmp_path, *files)[:6] == [True] * 6
    assert "labels.csv has no text of 8 words and no sentence of 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, data, named",
    [
        ("a.xml", b"<a><b></a>", "mismatched tag"),
        ("a.json", b'{"a": ', "not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "line 2 is not valid JSON"),
        ("a.json", b"[" * 100_000, "recursion"),
        ("a.parquet", b"PAR1", "Parquet"),
        ("a.pdf", b"%PDF\0\0", "not a text"),
        ("a.jsonl.gz", gzip.compress(LINES.encode())[:-9], "end-of-stream"),
    ],
)
def test_a_broken_file_is_one_line_that_names_it(tmp_path, name, data, named):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=named) as raised:
        found(tmp_path, tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)
    assert "\n" not in str(raised.value)


@given(st.binary(max_size=300), st.sampled_from(["xml", "json", "jsonl", "csv", "tsv", "parquet", "txt"]))
def test_any_bytes_are_read_or_named(tmp_path_factory, data, ending):
    file = tmp_path_factory.getbasetemp() / f"any.{ending}"
    file.write_bytes(data)
    try:
        write_ngrams([InputFile(str(file), None)], file.with_suffix(".npz"))
    except UserError as error:
        assert str(file) in str(error)
