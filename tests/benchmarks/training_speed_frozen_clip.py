"""Captions beside stock whose CLIP is frozen and off the graph: what autograd makes of the public relative's code."""

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
