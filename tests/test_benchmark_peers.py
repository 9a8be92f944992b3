"""The baselines of the benchmarks do the same work as ours: same samples, targets, losses and trained parameters."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kosmos_plugin.planning.costs import flops_items
from tests import tiny
from tests.benchmarks.arithmetic import LEAST, STOCK, TRANSFORMERS, Cost, update_cost
from tests.benchmarks.noise import write_data
from tests.benchmarks.peers.kosmos2 import number_of_targets
from tests.benchmarks.training import Kosmos2, Ours, Stock, Work, our_model, samples_by_stream

GEOMETRY = (
    "--decoder-layers 2 --decoder-embed-dim 32 --decoder-ffn-embed-dim 64 --decoder-attention-heads 2 "
    f"--image-tokens {tiny.IMAGE_TOKENS} --image-size {tiny.IMAGE_SIZE}"
)
pytestmark = pytest.mark.slow  # only concerns the benchmarks
STREAMS = {"text": (2, 96), "captions": (2, 128), "interleaved": (1, 64)}


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    (folder / "clip.json").write_text(json.dumps(tiny.CLIP))
    return write_data(folder, pieces=300)


def work(noise: Path, arch: str, dropout: float, *streams: str) -> Work:
    options = (
        f"{GEOMETRY} --dropout {dropout} --attention-dropout {dropout} "
        f"--vision-model {noise.parent}/clip.json --frozen-vision-dtype model"
    )
    return Work(noise, arch, options, **{name: STREAMS[name] for name in streams})


def fairseq_losses(side: Ours | Stock) -> tuple[float, int]:
    """The summed loss and the number of targets of an update's micro-batches."""
    criterion, model = side.update.trainer.criterion, side.update.model.train()
    parts = [criterion(model, batch) for batch in side.batches]
    return sum(float(loss) for loss, *_ in parts), sum(targets for _, targets, _ in parts)


def optimized(side: Ours | Stock) -> set[str]:
    """The names of the parameters in the optimizer."""
    params = {id(p) for group in side.update.trainer.optimizer.param_groups for p in group["params"]}
    return {name for name, parameter in side.update.model.named_parameters() if id(parameter) in params}


@pytest.mark.parametrize("streams", [("text",), ("captions",), tuple(STREAMS)], ids="-".join)
def test_stock_has_our_loss(noise, streams):
    job = work(noise, "kosmos_base", 0.0, *streams)
    (ours, targets), (stock, their_targets) = fairseq_losses(Ours(job)), fairseq_losses(Stock(job))
    assert targets == their_targets > 50
    assert abs(ours - stock) / targets < 1e-4


def test_stock_learns_what_ours_learns(noise):
    """Updates change the same parameters by the same amount, whether CLIP's graph is kept or not."""
    job = work(noise, "kosmos_base", 0.0, *STREAMS)
    job = replace(job, options=f"{job.options} --optimizer adam")  # our AdamW adds ε in another place
    sides = Ours(job), Stock(job), Stock(job, "--freeze-clip")
    for side in sides:
        side(), side()
    ours, *theirs = ({name: p.detach() for name, p in side.update.model.named_parameters()} for side in sides)
    assert optimized(sides[0]) == optimized(sides[1]) == optimized(sides[2])
    begin = dict(Stock(job).update.model.named_parameters())
    name = "decoder.layers.0.ffn.fc1.weight"
    assert (ours[name] - begin[name]).abs().max() > 1e-4
    frozen = "vision.encoder.visual.conv1.weight"
    assert torch.equal(ours[frozen], begin[frozen])
    for stock in theirs:
        torch.testing.assert_close(stock[name], ours[name], atol=2e-5, rtol=0)
        assert torch.equal(stock[frozen], begin[frozen])


def test_stock_keeps_the_graph_of_clip(noise):
    """Gradients of the frozen layers are computed unless `freeze_clip` is set."""
    job = work(noise, "kosmos_base", 0.1, "captions")
    for options, computed in (((), True), (("--freeze-clip",), False)):
        stock = Stock(job, *options)
        stock()
        frozen = stock.update.model.vision.encoder["visual"].conv1.weight
        assert (frozen.grad is not None) == computed


def test_transformers_has_our_loss(noise):
    job = work(noise, "kosmos_2", 0.0, *STREAMS)
    loss, targets = fairseq_losses(Ours(job))
    theirs = Kosmos2(job)
    assert sum(map(number_of_targets, theirs.batches)) == targets
    their_loss = sum(float(theirs.update.loss(batch, targets)) for batch in theirs.batches)
    assert abs(loss / targets - their_loss) < 1e-4


def test_transformers_trains_what_ours_trains(noise):
    job = work(noise, "kosmos_2", 0.1, *STREAMS)
    ours, theirs = Ours(job), Kosmos2(job)
    count = sum(p.numel() for p in ours.update.model.parameters() if p.requires_grad)
    assert sum(p.numel() for p in theirs.update.trained) == count
    before = theirs.update.trained[0].detach().clone()
    theirs()
    assert not torch.equal(theirs.update.trained[0], before)


# ---- Computed costs ----


def counted(job: Work, way) -> Cost:
    with torch.device("meta"):
        task, model = our_model(job)
    return update_cost(model, samples_by_stream(job, task), task.vocabulary.pad, way)


def test_flops_of_stock_are_those_that_torch_counts(noise):
    """Vision is left out: torch's counter does not know the CPU's fused attention."""
    job = work(noise, "kosmos_1_lm", 0.1, "text")
    stock = Stock(job)
    with FlopCounterMode(display=False) as counter:
        stock()
    assert counted(job, STOCK).flops == counter.get_total_flops()


def test_least_flops_are_those_of_the_plan(noise):
    """They are equal because the plan counts half of T² pairs, and every token of a row as a target."""
    job = work(noise, "kosmos_1_lm", 0.1, "text")
    with torch.device("meta"):
        model = our_model(job)[1]
    rows, length = job.text
    planned = sum(item.flops for item in flops_items(model, rows * length, 0, length))
    assert counted(job, LEAST).flops == pytest.approx(planned, rel=0.02)


def test_images_cost_their_backward_pass_where_clip_is_in_the_graph(noise):
    job = work(noise, "kosmos_base", 0.1, "captions")
    least, frozen, stock = (counted(job, way) for way in (LEAST, STOCK._replace(vision_graph=False), STOCK))
    assert least.flops < frozen.flops < stock.flops
    assert least.bytes < frozen.bytes == stock.bytes and least.new_bytes < frozen.new_bytes == stock.new_bytes
    assert counted(job, TRANSFORMERS).flops == frozen.flops
