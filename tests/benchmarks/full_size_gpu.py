"""The paper's full model on one GPU: `--arch kosmos_1` in bf16 on the three streams at the paper's ratio, and its MFU.

24 layers of 2,048, ViT-L/14 with its last block trained (random weights, which cost the same as pretrained ones), a
vocabulary of 64,007. An update has five rows of text, five of captions and two of interleaved documents with five
images, each of 2,048 tokens.

    MFU = useful FLOPs of an update / (its seconds · the GPU's peak in bf16)

Useful FLOPs are the minimum that `arithmetic` computes, as a training logs it: 6 per weight and token, attention
of each token to earlier tokens of its document, the output matrix for tokens in the loss, and images, forward through
vision tower and resampler and backward through their trained parts. Recomputation (`--checkpoint-activations`) is not
included. (`kosmos-inspect --plan` counts slightly more: attention over whole rows, and the output matrix for all text.)
"""

import tempfile
from pathlib import Path

import torch

from kosmos_plugin.gpus import find_gpu
from kosmos_plugin.models.flops import image_flops
from tests.benchmarks.arithmetic import LEAST, measured_rates, update_cost
from tests.benchmarks.memory import peak_memory, reset_peak
from tests.benchmarks.noise import write_data
from tests.benchmarks.result import Cell, Result, Spread
from tests.benchmarks.side_by_side import seconds_of
from tests.benchmarks.training import Ours, Work, our_model, samples_by_stream

TITLE = "kosmos_1 at full size on one GPU: training"
ROW = 2048
MICRO_BATCH = 4  # rows
WARM_UP, TURNS = 3, 5
AT_LEAST = 0.5


def peak_flops(device: str) -> tuple[float, str]:
    """The GPU's peak FLOP/s in bf16, and its source."""
    if gpu := find_gpu(device):
        return gpu.tflops * 1e12, "from its data sheet, dense"
    return measured_rates().flops, "measured in one large matrix product"


def run(out: Path) -> Result:
    if not torch.cuda.is_available():
        row: list[Cell] = ["MFU, vision included", "not measured on a GPU", AT_LEAST]
        return Result(TITLE, ["measure", "value", "target"], [row], ["This machine has no CUDA device."])
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder) / "data")
        streams = {"text": (5, ROW), "captions": (5, ROW), "interleaved": (2, ROW)}
        work = Work(data, "kosmos_1", **streams, images=5, micro_batch=MICRO_BATCH)
        update = Ours(work)
        for _ in range(WARM_UP):
            update()
        reset_peak()
        seconds = Spread(tuple(seconds_of(update) for _ in range(TURNS)))
        with torch.device("meta"):
            task, model = our_model(work)
        batches = samples_by_stream(work, task)
    samples = [sample for stream in batches for sample in stream]
    tokens, images = sum(map(len, samples)), sum(len(sample.images) for sample in samples)
    flops = update_cost(model, batches, task.vocabulary.pad, LEAST).flops
    vision = images * sum(image_flops(model))
    device = torch.cuda.get_device_name()
    peak, source = peak_flops(device)
    utilization = Spread(tuple(flops / each / peak for each in seconds.values))
    return Result(
        title=TITLE,
        columns=["measure", "value", "target"],
        rows=[
            ["GPU", device, ""],
            ["its peak in bf16, TFLOP/s", peak / 1e12, ""],
            ["tokens in the update, images' embeddings included", tokens, ""],
            ["images", images, ""],
            ["seconds of the update", seconds, ""],
            ["tokens per second", Spread(tuple(tokens / each for each in seconds.values)), ""],
            ["useful TFLOP in the update", flops / 1e12, ""],
            ["of which vision and resampler", f"{vision / flops:.0%}", ""],
            ["peak memory, GiB", peak_memory() / 2**30, ""],
            ["MFU, vision included", utilization, AT_LEAST],
        ],
        notes=[
            f"MFU = useful FLOPs / (seconds · peak); the peak is {source}. Useful FLOPs are the least that "
            "tests/benchmarks/arithmetic.py counts.",
            f"Micro-batches of at most {MICRO_BATCH} rows, accumulated; {TURNS} updates (median, lowest to highest).",
        ],
    )
