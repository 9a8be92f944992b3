"""Finds the documents that made an update's loss or gradients NaN or infinite.

    update ─ plan again ─→ this rank's micro-batches ─ run again ─→ bad ones ─ row by row ─→ bad rows ─ document by
    document ─→ bad documents ─ gather ─→ those of all ranks

The order of the data is arithmetic, so any update can be planned and read again. Each rank looks at its own
micro-batches, without communication, and none of it touches gradients or weights.
"""

import copy
import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.optim import AMPOptimizer
from fairseq.trainer import Trainer

from kosmos_plugin.data.batch import Batch
from kosmos_plugin.data.micro_batches import MicroBatches
from kosmos_plugin.data.mixture import Plan
from kosmos_plugin.data.packing import PackedRow, PlannedRow
from kosmos_plugin.data.skips import SkipCounter
from kosmos_plugin.divided_tensors import whole
from kosmos_plugin.fairseq_modules.fully_sharded import is_sharded

MOST = 8  # documents and weights that a report names


@dataclass(frozen=True)
class BadDocuments:
    """A document, or several that are bad only together, and what they make bad."""

    rank: int
    accumulation_step: int
    stream: str
    number: int  # of documents
    names: tuple[str, ...]  # of the first ones
    what: str  # "the loss is nan"

    def __str__(self) -> str:
        names = ", ".join(self.names) + (", …" if self.number > len(self.names) else "")
        together = "" if self.number == 1 else f"{self.number} documents together: "
        return (
            f"rank {self.rank}, accumulation step {self.accumulation_step}, stream {self.stream}: {together}{names}: "
            f"{self.what}"
        )


def causes(trainer: Trainer, micro_batches: MicroBatches, update: int) -> list[str]:
    """Say, after an update whose numbers were not finite, where they come from; called by all ranks.

    Args:
        trainer: The trainer. Its gradients are cleared.
        micro_batches: Those of this rank.
        update: The update's number in the data, from 0.

    Returns:
        A line for each cause, the same on all ranks; none if everything is finite when it is run again, and without a
        loss scale.
    """
    if is_sharded(trainer.get_model()):  # --fully-shard: no rank can run anything alone
        lines = _bad_weights(trainer.get_model())
        return lines or [
            "with --fully-shard the documents are not looked for; kosmos-inspect shows the micro-batches "
            f"with --update {update} --ranks {micro_batches.ranks} --update-freq {micro_batches.update_freq}"
        ]
    trainer.zero_grad()  # their memory is needed
    found = list(itertools.islice(_bad_documents(trainer, micro_batches, update), MOST))
    if micro_batches.ranks > 1:
        gathered = distributed_utils.all_gather_list(
            [dataclasses.astuple(bad) for bad in found], trainer.data_parallel_process_group, max_size=2**17
        )
        found = [BadDocuments(*bad) for own in gathered for bad in own][:MOST]
    lines = _bad_weights(trainer.get_model()) + [str(bad) for bad in found]
    if found:
        first = found[0]
        lines.append(
            f"kosmos-inspect shows the first of them with --update {update} --ranks {micro_batches.ranks} --rank "
            f"{first.rank} --update-freq {micro_batches.update_freq} --accumulation-step {first.accumulation_step}"
        )
    return lines


def _bad_weights(model: torch.nn.Module) -> list[str]:
    bad = [name for name, weight in model.named_parameters() if not whole(torch.isfinite(weight).all())]
    if not bad:
        return []
    names = ", ".join(bad[:MOST]) + (", …" if len(bad) > MOST else "")
    return [f"weights were NaN or infinite before this update: {names}. An earlier checkpoint may have better ones"]


def _bad_documents(trainer: Trainer, micro_batches: MicroBatches, update: int) -> Iterator[BadDocuments]:
    """Those of this rank, in the order of the micro-batches."""
    again = _Again(trainer, micro_batches)
    plans = micro_batches.plan(update, count_skips=False)
    trainer._set_seed()  # in the first pass dropout is that of the update, as all micro-batches run in their order
    bad = {step: what for step, plan in enumerate(plans) if (what := again.fault(plan.rows))}
    for step, what in bad.items():
        rows = {i: of_row for i, row in enumerate(plans[step].rows) if (of_row := again.fault([row]))}
        if not rows:
            yield again.found(step, plans[step].rows, what)
        for i, of_row in rows.items():
            yield from again.bad_in_row(step, plans[step].rows[i], of_row)


class _Again:
    """Runs parts of a rank's micro-batches once more."""

    def __init__(self, trainer: Trainer, micro_batches: MicroBatches):
        self.trainer = trainer
        self.model, self.criterion = trainer.get_model(), trainer.get_criterion()
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.rank, self.mixture = micro_batches.rank, micro_batches.mixture
        self.collate = copy.copy(micro_batches.collate)
        self.collate.skips = SkipCounter(1.0)  # what is broken was counted when it was read for the update

    def bad_in_row(self, step: int, row: PlannedRow, what: str) -> Iterator[BadDocuments]:
        """The documents of a bad row that are bad alone; if none is, all of them together."""
        parts = [dataclasses.replace(row, samples=row.samples[i : i + 1]) for i in range(len(row.samples))]
        alone = {i: found for i, part in enumerate(parts) if (found := self.fault([part]))} if len(parts) > 1 else {}
        for i, found in alone.items():
            yield self.found(step, [parts[i]], found)
        if not alone:
            yield self.found(step, [row], what)

    def found(self, step: int, rows: list[PlannedRow], what: str) -> BadDocuments:
        """The documents of rows, with the corpus of each, its number there, and where it is."""
        streams = dict.fromkeys(self.mixture.streams[row.stream].config.name for row in rows)
        number = sum(len(row.samples) for row in rows)
        names = tuple(itertools.islice(self._names(rows), MOST))
        return BadDocuments(self.rank, step, " and ".join(streams), number, names, what)

    def _names(self, rows: list[PlannedRow]) -> Iterator[str]:
        for row in rows:
            corpora = self.mixture.streams[row.stream].names
            for i, (corpus, number, *_) in enumerate(row.samples.tolist()):
                (read,) = self._read([dataclasses.replace(row, samples=row.samples[i : i + 1])])
                yield from (f"{corpora[corpus]}/{number} ({sample.id})" for sample in read.samples)

    def fault(self, rows: list[PlannedRow]) -> str:
        """What is not finite when rows are a micro-batch of their own; "" if everything is finite."""
        return self._fault(self.collate(self._read(rows)))

    def _read(self, rows: list[PlannedRow]) -> list[PackedRow]:
        return self.mixture.read(Plan(rows, []), count_skips=False)

    def _fault(self, batch: Batch) -> str:
        sample, _ = self.trainer._prepare_sample(batch)
        amp = isinstance(self.trainer.optimizer, AMPOptimizer)
        with torch.autocast(self.trainer.device.type, enabled=amp) if amp else torch.enable_grad():
            loss, _, logging_output = self.criterion(self.model, sample)
        value = float(logging_output["loss"])
        if not math.isfinite(value):
            return f"the loss is {value}"
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        norms = [torch.linalg.vector_norm(each, dtype=torch.float32) for each in gradients if each is not None]
        norm = float(torch.linalg.vector_norm(torch.stack(norms)))
        return "" if math.isfinite(norm) else f"the norm of the gradients is {norm}"
