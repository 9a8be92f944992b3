"""Throughput in fairseq's log: what is counted, and that the log has it."""

import json
import time
from numbers import Number

import numpy as np
import pytest
import torch
from fairseq.logging import metrics
from hypothesis import given
from hypothesis import strategies as st

from kosmos_plugin.fairseq_modules.throughput import MeasuredBatches, Throughput, Work, attention_pairs
from kosmos_plugin.models.flops import without_weights
from tests import tiny
from tests.benchmarks.arithmetic import LEAST, update_cost

DOCUMENTS = st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=1, max_size=3)


@given(DOCUMENTS)
def test_pairs(rows):
    """Rows of documents of these lengths, padded: every position with those before it in its document."""
    ids = torch.zeros(len(rows), 40, dtype=torch.int64)
    for row, lengths in zip(ids, rows, strict=True):
        row[: sum(lengths)] = torch.from_numpy(np.repeat(np.arange(1, len(lengths) + 1), lengths))
    seen = (ids.unsqueeze(2) == ids.unsqueeze(1)) & (ids.unsqueeze(2) > 0)
    assert attention_pairs(ids) == int(seen.tril().sum())


def work_of(batches, pad) -> Work:
    measured = MeasuredBatches(pad)
    assert len(list(measured(batches))) == len(batches)
    return measured.take()


def test_operations_equal_those_of_the_benchmarks(task, data):
    """Counted in batches here, and in samples there."""
    task.load_dataset("train")
    micro_batches = task.get_batch_iterator(task.dataset("train"), max_sentences=100).micro_batches
    work = work_of([micro_batches[0], micro_batches[1]], task.vocabulary.pad)
    config = tiny.model_config(data)
    throughput = Throughput(config, len(task.vocabulary), task.vocabulary.pad, peak_flops=1e6)
    throughput.update_done(torch.device("cpu"))
    with metrics.aggregate(new_root=True) as logged:
        throughput.log(Work())  # fairseq's meters of speed start with the second call
        throughput.log(work)
    samples = [[s for row in micro_batches.rows(update) for s in row.samples] for update in (0, 1)]
    # A row of text is one document, as samples of whole rows are.
    model = without_weights(config, len(task.vocabulary), task.vocabulary.pad)
    assert logged["mfu"].n * 1e6 == update_cost(model, samples, task.vocabulary.pad, LEAST).flops
    assert logged["images_per_second_per_rank"].n == sum(len(s.images) for each in samples for s in each)
    assert logged["tokens_per_second_per_rank"].n == sum(len(s) for each in samples for s in each)


def test_waiting_is_measured_and_work_is_not():
    def slow():
        for _ in range(3):
            time.sleep(0.05)
            ids = torch.ones(1, 4, dtype=torch.int64)
            yield {"document_ids": ids, "targets": ids, "image_slots": ids > 1}

    measured = MeasuredBatches(pad=1)
    for _ in measured(slow()):
        time.sleep(0.1)
    waited = measured.take().seconds_waited
    assert 0.15 <= waited < 0.3
    assert measured.take() == Work()


def test_without_a_known_peak_there_is_no_mfu(data):
    throughput = Throughput(tiny.model_config(data), 100, 1)
    throughput.update_done(torch.device("cpu"))
    with metrics.aggregate(new_root=True) as logged:
        throughput.log(Work())
    assert "mfu" not in logged and "peak_memory_gib" not in logged


@pytest.mark.parametrize("workers", ["0", "1"])
def test_the_log_of_a_training(data, tmp_path, caplog, workers):
    options = ("--cpu", "--num-workers", workers, "--update-freq", "2", "--max-update", "6", "--disable-validation")
    with caplog.at_level("INFO"):
        tiny.train(data, tmp_path, *options)
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "train_inner"]
    assert len(lines) == 6
    for line in lines[1:]:
        assert float(line["tokens_per_second_per_rank"]) > 0
        assert 0 < float(line["data_wait"]) < 1
        # one rank: all of the images
        assert float(line["images_per_second_per_rank"]) == pytest.approx(float(line["images_per_second"]), rel=0.05)
    # TensorBoard and W&B take only numbers.
    stats = metrics.get_smoothed_values("train")
    assert isinstance(stats["data_wait"], Number) and isinstance(stats["tokens_per_second_per_rank"], Number)
