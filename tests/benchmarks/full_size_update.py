"""One update of the paper's full model on this machine's CPU, through the literal `fairseq-train`.

`--arch kosmos_1` unchanged: 24 layers of 2,048, ViT-L/14 with its last block trained (random weights, which cost the
same as pretrained ones), a vocabulary of 64,007, rows of 2,048. An update is one row of each stream: text, captions
with the lengths of web captions, and a document of five images. Weights and gradients are bf16, Adam's two moments
float32 (fairseq's `--memory-efficient-bf16`), and the decoder layers' activations are recomputed in the backward pass.
Words and images are noise: time and memory do not depend on content.

Seconds are fairseq's own for the update, memory is the peak resident set of the process, and useful FLOPs are those of
`kosmos-inspect --plan`, without recomputation.
"""

import json
import math
import re
import resource
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path
from random import Random

import torch

from kosmos_plugin.fairseq_modules.architectures import KosmosModel
from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.planning.costs import flops_items
from tests import tiny
from tests.benchmarks.arithmetic import matmul_rate
from tests.benchmarks.machine import available_memory
from tests.benchmarks.noise import PIECES, write_vocabulary
from tests.benchmarks.result import Result

ROW = 2048
IMAGE_TOKENS, IMAGE_SIZE = 64, 224
CAPTIONS, CAPTION_WORDS = 22, (8, 30)
PAGE_IMAGES, PAGE_WORDS = 5, 1700
MEMORY_NEEDED = 20  # GiB

OPTIONS = f"""
--task kosmos_multimodal --arch kosmos_1 --criterion multimodal_cross_entropy
--tokens-per-sample {ROW} --image-tokens {IMAGE_TOKENS} --image-size {IMAGE_SIZE}
--vision-weights none --checkpoint-activations full --memory-efficient-bf16 --cpu
--optimizer adam --adam-betas (0.9,0.98) --adam-eps 1e-6 --weight-decay 0.01
--lr 2e-4 --lr-scheduler polynomial_decay --warmup-updates 375 --total-num-update 300000
--max-update 1 --batch-size 1 --update-freq 3
--no-save --disable-validation --log-format json --log-interval 1 --num-workers 0 --seed 1
""".split()

DATA_YAML = f"""\
vocabulary: vocabulary
streams:
  text: {{kind: text, sequences_per_update: 1, corpora: [{{name: noise, train: text}}]}}
  captions: {{kind: captions, sequences_per_update: {CAPTIONS}, corpora: [{{name: noise, train: captions.tar}}]}}
  interleaved: {{kind: interleaved, sequences_per_update: 1, corpora: [{{name: noise, train: interleaved.tar}}]}}
"""


# ---- Data ----


def write_data(folder: Path) -> Path:
    """Write noise for one update: a vocabulary of 64,007, a row of text, of captions, a page; return the data YAML."""
    rng = Random(1)
    words = [f"word{i}" for i in range(PIECES)]

    def text(count: int) -> str:
        return " ".join(rng.choices(words, k=count))

    folder.mkdir()
    vocabulary = write_vocabulary(folder / "vocabulary")
    tiny.write_text(folder / "text", [vocabulary.encode(text(ROW - 2))], vocabulary.eos)
    captions = []
    for i in range(CAPTIONS):
        captions += tiny.caption_members(f"{i:05d}", text(rng.randint(*CAPTION_WORDS)), tiny.png(rng, IMAGE_SIZE))
    tiny.write_tar(folder / "captions.tar", captions)
    images = [tiny.png(rng, IMAGE_SIZE) for _ in range(PAGE_IMAGES)]
    segments = [{"text": text(PAGE_WORDS // PAGE_IMAGES)} for _ in images]
    page = [part for i, segment in enumerate(segments) for part in ({"image": i}, segment)]
    tiny.write_tar(folder / "interleaved.tar", tiny.interleaved_members("00000", page, images))
    path = folder / "data.yaml"
    path.write_text(DATA_YAML)
    return path


# ---- Sizes ----


def first_update(data: Path) -> tuple[int, int, KosmosModel]:
    """(positions with a token or an image embedding, images, the model on the meta device)."""
    task = tiny.task(data, image_tokens=IMAGE_TOKENS, image_size=IMAGE_SIZE, tokens_per_sample=ROW)
    task.load_dataset("train")
    rows = task.dataset("train").rows(0)
    config = KosmosConfig(
        vision_weights="none", image_tokens=IMAGE_TOKENS, image_size=IMAGE_SIZE, tokens_per_sample=ROW
    )
    with torch.device("meta"):
        model = KosmosModel.build_model(config, task)
    return sum(row.num_tokens for row in rows), sum(row.num_images for row in rows), model


# ---- The training ----


def train(data: Path) -> tuple[dict[str, str], resource.struct_rusage]:
    """Run `fairseq-train`; return its log line of the update and its resource usage."""
    command = [Path(sysconfig.get_path("scripts")) / "fairseq-train", data, *OPTIONS]
    done = subprocess.run(command, cwd=data.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    line = re.search(r"\| train_inner \| (\{.*\})", done.stdout)
    if done.returncode or not line:
        raise RuntimeError(f"fairseq-train ended with {done.returncode}: {done.stdout[-2000:]}")
    return json.loads(line[1]), resource.getrusage(resource.RUSAGE_CHILDREN)


def run(out: Path) -> Result:
    if available_memory() < MEMORY_NEEDED:
        raise RuntimeError(f"{MEMORY_NEEDED} GiB of free memory are needed; {available_memory():.1f} are free.")
    peak = matmul_rate(torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder) / "data")
        positions, images, model = first_update(data)
        begin = time.monotonic()
        update, used = train(data)
        whole = time.monotonic() - begin
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    loss = float(update["loss"]) * math.log(2)
    if not math.isfinite(loss):
        raise RuntimeError(f"the loss is {loss}")
    seconds = float(update["train_wall"])
    flops = sum(item.flops for item in flops_items(model, positions, images, ROW))
    return Result(
        title="One update of kosmos_1 at full size on the CPU",
        columns=["measure", "value"],
        rows=[
            ["parameters", parameters],
            ["of which trained", trained],
            ["positions in the update (text, tags and image embeddings)", positions],
            ["tokens in the loss", int(update["wpb"])],
            ["images", images],
            ["seconds of the update", seconds],
            ["seconds of the whole command", whole],
            ["CPU seconds of the whole command, all cores", used.ru_utime + used.ru_stime],
            ["peak resident memory, GiB", used.ru_maxrss / 2**20],
            ["of which bf16 weights and gradients, float32 moments, GiB", (2 * parameters + 10 * trained) / 2**30],
            ["useful TFLOP in the update", flops / 1e12],
            ["useful GFLOP/s", flops / seconds / 1e9],
            ["GFLOP/s of one large bf16 matrix product here", peak / 1e9],
            ["utilization of that", f"{flops / seconds / peak:.0%}"],
            ["loss in nats", loss],
        ],
        notes=[
            f"`fairseq-train DATA.yaml {' '.join(OPTIONS)}`",
            f"Guessing has a loss of ln {PIECES + 10:,} = {math.log(PIECES + 10):.2f} nats. An untrained model with "
            "tied embeddings is worse: it expects the token that it has just read.",
        ],
    )
