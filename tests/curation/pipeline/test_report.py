"""The report counts what filters drop, including datatrove's own filters."""

from collections.abc import Iterator

from datatrove.data import Document
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.filters.base_filter import BaseFilter

from kosmos_plugin.curation.options import IndexOptions
from kosmos_plugin.curation.pipeline.report import Report
from kosmos_plugin.curation.pipeline.run import Run
from kosmos_plugin.curation.pipeline.runner import Stage, run_stages
from kosmos_plugin.curation.pipeline.steps import DocumentStream, Step


class Numbers(Step):
    name = "numbers"

    def run(self, data: DocumentStream = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for number in range(10):
            self.count("read", "documents")
            yield Document(str(number), str(number))


class EvenFilter(BaseFilter):
    name = "even"

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        return True if int(document.text) % 2 else (False, "even: a number")


def test_datatroves_filters_are_counted_by_their_reasons(tmp_path):
    run = Run("text", IndexOptions(), [], tmp_path)
    run.begin()
    steps = [Numbers(), EvenFilter(), LambdaFilter(lambda document: int(document.text) > 4)]
    report = run_stages(run, [Stage("filter numbers", steps, 2)], workers=1)
    assert report.counts == {"read": {"documents": 20}, "dropped": {"even: a number": 10}}
    assert Report.read(run.report_file) == report


def test_the_text_has_aligned_columns():
    report = Report("text", {"read": {"documents": 1200}, "dropped": {"empty text": 7, "NUL bytes": 12}})
    assert report.as_text().splitlines() == [
        "read     documents   1,200",
        "dropped  empty text      7",
        "         NUL bytes      12",
    ]
