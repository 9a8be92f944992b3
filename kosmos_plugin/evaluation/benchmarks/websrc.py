"""WebSRC (§4.4): questions about web pages, each with a screenshot and its HTML.

Release (github.com/X-LANCE/WebSRC-Baseline, `WebSRC_v1.0_train+dev.zip`, its folder `release`):

    dataset_split.csv                                     domain, website and split (train or dev) of each website
    DOMAIN/NN/dataset.csv                                 question, id, element_id, answer_start, answer
    DOMAIN/NN/processed_data/PAGE.{html,png,json,txt}     PAGE is id[2:9] of a question

The test set has no public answers, so the dev set is measured. An answer is a span of the page's text, or "yes" or
"no". The order of the columns differs between websites.

The text of a page is extracted as in the official baseline: all text nodes in document order, stripped and joined by
spaces. The prompt is the paper's, word for word; without the text, it only lacks the context. A page whose text does
not fit in the model's context counts as wrong.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kosmos_plugin.data.documents import Image
from kosmos_plugin.errors import UserError, missing_package
from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Item, Scores
from kosmos_plugin.evaluation.files import image_file, read_table, shown
from kosmos_plugin.evaluation.metrics.spans import spans
from kosmos_plugin.evaluation.requests import Generate, Request, question

SPLIT_FILE = "dataset_split.csv"
MOST_DIGITS = 9  # of a website's number; real ones have two
INSTRUCTION = (
    "Given the context below from web page, extract the answer from the given text like this: "
    "Qusestion: Who is the publisher of this book? Answer: Penguin Books Ltd."  # the misspelling is the paper's
)


@dataclass(frozen=True)
class Question(Item):
    """A question about a page. The reference is a list with the right answer."""

    question: str
    page: Path  # its HTML
    screenshot: Image


class WebSrc(Benchmark[Question]):
    """The screenshot, then the prompt with the page's text."""

    name = "websrc"
    title = "WebSRC"
    section = "4.4"
    release = "websrc"
    unpacked = ("release",)
    source = (
        "WebSRC_v1.0_train+dev.zip of huggingface.co/datasets/X-LANCE/WebSRC_v1.0: what is in its folder release "
        "(dataset_split.csv, auto/01/dataset.csv, auto/01/processed_data, …)"
    )
    splits = ("dev",)

    with_screenshot: ClassVar[bool] = True
    with_text: ClassVar[bool] = True

    def files(self, few_shot: bool) -> list[str]:
        if not (self.folder / SPLIT_FILE).is_file():
            return [SPLIT_FILE]
        needed = ("dataset.csv", "processed_data")
        return [SPLIT_FILE, *(f"{website}/{name}" for website in self._websites() for name in needed)]

    def items(self) -> list[Question]:
        items = []
        for website in self._websites():
            path = self.folder / website / "dataset.csv"
            for row in read_table(path, ("question", "id", "answer")):
                if row["question"] is None or row["id"] is None or row["answer"] is None:
                    raise UserError(
                        f"{path}: the row with the id {shown(row['id'])} has no question, no id or no answer."
                    )
                page = self.folder / website / "processed_data" / row["id"][2:9]
                screenshot = image_file(page.with_suffix(".png"))
                items.append(
                    Question(row["id"], [row["answer"]], row["question"], page.with_suffix(".html"), screenshot)
                )
        return items

    def request(self, item: Question, demonstrations: Sequence[Item]) -> Request:
        context = f" Context: {page_text(item.page)}" if self.with_text else ""
        images = (item.screenshot,) if self.with_screenshot else ()
        return Generate(question(f"{INSTRUCTION}{context} Q: {item.question} A:", *images))

    def score(self, items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
        return spans(items, answers)

    def _websites(self) -> list[str]:
        """List the folders of the split's websites."""
        path = self.folder / SPLIT_FILE
        found = []
        for row in read_table(path, ("domain", "website", "split")):
            if not (row["website"] or "").isdecimal() or len(row["website"]) > MOST_DIGITS:
                raise UserError(f"{path}: website {shown(row['website'])} of {shown(row['domain'])} is not a number.")
            if row["split"] == self.split:
                found.append(f"{row['domain']}/{int(row['website']):02d}")
        return found


class WebSrcText(WebSrc):
    """The prompt with the page's text, without the screenshot: the input of the text-only baseline."""

    name = "websrc_text"
    title = "WebSRC, extracted text only"
    has_images = False
    with_screenshot = False


class WebSrcImage(WebSrc):
    """The screenshot, and the prompt without the page's text."""

    name = "websrc_image"
    title = "WebSRC, without the extracted text"
    with_text = False


@functools.cache
def page_text(path: Path) -> str:
    """Extract the text of an HTML file, on one line."""
    try:
        from lxml import html
        from lxml.etree import ParserError
    except ModuleNotFoundError as error:
        raise missing_package("WebSRC", error, "evaluation") from None
    try:
        page = html.document_fromstring(path.read_bytes(), parser=html.HTMLParser(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The page {path} cannot be read: {error.strerror}.") from None
    except ParserError as error:
        raise UserError(f"{path} is not valid HTML: {error}.") from None
    return " ".join(" ".join(page.xpath("//text()[not(parent::script or parent::style)]")).split())
