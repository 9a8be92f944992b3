"""Pages longer than a row are cut into parts that fit in a row and keep the page's order, whatever their content."""

import pytest
from datatrove.data import Document, Media, MediaType
from hypothesis import given, settings
from hypothesis import strategies as st

from kosmos_plugin.curation.formatters.fit_rows import FitRows
from kosmos_plugin.curation.page_documents import text_of
from kosmos_plugin.curation.sampling.hold_out import Held, HoldOut
from kosmos_plugin.curation.writers.shards import WriteShards, interleaved_record
from kosmos_plugin.data.documents import Document as TrainingDocument
from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.data.shards import ShardedDocuments, interleaved_document
from kosmos_plugin.vocabulary import Vocabulary, write_encoding
from tests import tiny

MAX_TOKENS, IMAGE_TOKENS = 40, 4


@pytest.fixture(scope="module", params=["newlines are spaces", "newlines are encoded"])
def vocabulary(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary") / "vocabulary"
    tiny.write_vocabulary(folder)
    if request.param == "newlines are encoded":
        write_encoding(folder)
    return folder


def page(parts: list) -> Document:
    """A page made of texts and images (None)."""
    segments, media = [], []
    for part in parts:
        if part is None:
            segments.append({"image": len(media)})
            media.append(Media(str(len(media)), MediaType.IMAGE, f"http://a/{len(media)}"))
        else:
            segments.append({"text": part})
    return Document(text_of(segments), "page", media, {"segments": segments})


def fitted(vocabulary, document: Document) -> list[list[str | None]]:
    """The parts of a page, as lines of text and addresses of images."""
    parts = []
    sample_builder = SampleBuilder(Vocabulary.load(vocabulary), IMAGE_TOKENS, MAX_TOKENS)
    for part in FitRows(str(vocabulary), MAX_TOKENS, IMAGE_TOKENS).run([document]):
        segments = [Text(one["text"]) if "text" in one else Image(bytes) for one in part.metadata["segments"]]
        sample_builder.sample(TrainingDocument("part", tuple(segments)))  # BrokenRecord if it is longer than a row
        lines = []
        for segment in part.metadata["segments"]:
            lines += segment["text"].split("\n") if "text" in segment else [part.media[segment["image"]].url]
        parts.append(lines)
    return parts


lines = st.lists(st.sampled_from(tiny.WORDS), min_size=1, max_size=25).map(" ".join)
texts = st.lists(lines, min_size=1, max_size=4).map("\n".join)


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.one_of(st.none(), texts), min_size=1, max_size=12))
def test_every_part_fits_and_nothing_moves(vocabulary, parts):
    document = page(parts)
    everything = [line for part in parts for line in ([None] if part is None else part.split("\n"))]
    urls = iter(range(len(document.media)))
    everything = [f"http://a/{next(urls)}" if line is None else line for line in everything]
    found = fitted(vocabulary, document)

    for part in found:
        assert {line.startswith("http") for line in part} == {True, False}
    remaining = iter(everything)
    for line in (line for part in found for line in part):
        assert line in remaining, "in the page's order, and none repeated"


def test_a_page_that_fits_stays_as_it_is(vocabulary):
    assert fitted(vocabulary, page(["the red cat", None, "runs"])) == [["the red cat", "http://a/0", "runs"]]


def test_a_long_page_is_cut_between_its_paragraphs(vocabulary):
    paragraph = "the red cat runs near the old house and the new car"
    found = fitted(vocabulary, page([paragraph, None, paragraph, paragraph, None, paragraph]))
    assert len(found) > 1
    assert [line for part in found for line in part if line.startswith("http")] == ["http://a/0", "http://a/1"]


def test_all_parts_of_a_page_are_in_the_same_split(vocabulary, tmp_path):
    paragraph = "the red cat runs near the old house and the new car"
    pages = [page([f"{n} {paragraph}", None, paragraph, paragraph, None, f"{paragraph} {n}"]) for n in range(30)]
    for media in (media for document in pages for media in document.media):
        media.media_bytes = b"an image"
    parts = FitRows(str(vocabulary), MAX_TOKENS, IMAGE_TOKENS).run(pages)
    split = HoldOut(tmp_path / "held", Held(0.5, 0)).run(parts)
    assert len(list(WriteShards(tmp_path, interleaved_record).run(split))) == 60
    by_split = {}
    for split in ("train", "valid"):
        documents = ShardedDocuments([str(tmp_path / f"{split}-00000-000.tar")], interleaved_document)
        texts = [s.text for i in range(len(documents)) for s in documents[i].segments if isinstance(s, Text)]
        numbers = [word for text in texts for word in text.split() if word.isdigit()]
        by_split[split] = set(numbers)
        assert len(numbers) == 2 * len(by_split[split])  # in the first part and in the last
    assert len(by_split["train"]) > 5 and len(by_split["valid"]) > 5
    assert not by_split["train"] & by_split["valid"]
