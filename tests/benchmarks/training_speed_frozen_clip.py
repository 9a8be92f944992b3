"""Captions against stock with CLIP frozen and out of the graph, as autograd treats KOSMOS-2's public code."""

import dataclasses
from pathlib import Path

from tests.benchmarks import arithmetic
from tests.benchmarks.result import Result
from tests.benchmarks.training import Stock, Work
from tests.benchmarks.training_speed import Measure, measured, measures


def run(out: Path) -> Result:
    return measured(beside_frozen_stock)


def beside_frozen_stock(data: Path) -> list[Measure]:
    captions = measures(data)[0]
    name = "captions, against stock with CLIP's frozen layers cut off the graph"
    way = arithmetic.STOCK_FROZEN_CLIP
    return [dataclasses.replace(captions, name=name, peer=frozen_stock, way=way, at_least=None)]


def frozen_stock(work: Work) -> Stock:
    return Stock(work, "--freeze-clip")
