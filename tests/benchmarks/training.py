"""One update on noise, for timing: ours and *stock* with fairseq's `Trainer`, and transformers' KOSMOS-2.

All three have the same weights, samples and optimizer settings; ours and *stock* are configured by the options of
`fairseq-train`.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from fairseq import options, tasks
from fairseq.criterions import build_criterion
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer
from omegaconf import DictConfig

from kosmos_plugin.data.batch import Collator
from kosmos_plugin.data.packing import PackedRow
from kosmos_plugin.data.samples import Sample
from kosmos_plugin.fairseq_modules.architectures import KosmosModel
from kosmos_plugin.fairseq_modules.task import KosmosMultimodalTask
from kosmos_plugin.models.config import ARCHITECTURES, KosmosConfig
from tests.benchmarks.arithmetic import bfloat16_is_faster
from tests.benchmarks.memory import reset_peak
from tests.benchmarks.noise import Noise
from tests.benchmarks.peers.kosmos2 import Kosmos2Update, kosmos2_batch, kosmos2_model
from tests.benchmarks.peers.stock import stock_batch

KINDS = ("text", "captions", "interleaved")  # the streams of noise.write_data, by their numbers
SEED = 3

COMMON = f"""
--task kosmos_multimodal --vision-weights none --adam-betas (0.9,0.98) --adam-eps 1e-6 --weight-decay 0.01 --lr 2e-4
--clip-norm 1.0 --seed {SEED} --no-save --log-format none
"""
STOCK_OPTIONS = "--criterion cross_entropy --optimizer adam"


def our_options(compiled: bool = True) -> str:
    """Our measured options on this device, in addition to COMMON."""
    options = ["--criterion multimodal_cross_entropy --optimizer fused_adamw"]
    options += ["--frozen-vision-dtype bfloat16"] if bfloat16_is_faster() else []
    options += ["--compile"] if compiled and torch.cuda.is_available() else []
    return " ".join(options)


@dataclass(frozen=True)
class Work:
    """A model and the data of an update: each stream as (rows, tokens per row)."""

    data: Path  # of noise.write_data
    arch: str
    options: str = ""  # of the model and the task, beyond the architecture's
    text: tuple[int, int] = (0, 0)
    captions: tuple[int, int] = (0, 0)
    interleaved: tuple[int, int] = (0, 0)
    images: int = 2  # per interleaved document, which fills a row
    micro_batch: int = 64  # largest number of rows in one of ours

    @property
    def length(self) -> int:
        """Tokens of the longest rows."""
        return max(length for _, length in (self.text, self.captions, self.interleaved))

    def samples(self, task: KosmosMultimodalTask) -> dict[str, list[list[Sample]]]:
        """The samples of each row, by stream; every call returns the same."""
        noise = Noise(task.sample_builder, task.cfg.image_size, SEED)
        drawn = {
            "text": [[noise.text(self.text[1])] for _ in range(self.text[0])],
            "captions": [noise.captions(self.captions[1]) for _ in range(self.captions[0])],
            "interleaved": [[noise.page(self.images, self.interleaved[1])] for _ in range(self.interleaved[0])],
        }
        return {kind: rows for kind, rows in drawn.items() if rows}


# ---- The three implementations: `load` takes the samples of an update, a call computes it ----


class Ours:
    """Ours: packed rows; rows of equal length share micro-batches."""

    def __init__(self, work: Work, compiled: bool = True):
        arguments = f"--arch {work.arch} {our_options(compiled)}"
        self.update = FairseqUpdate(configuration(work, arguments))
        self.load(work)

    def load(self, work: Work) -> None:
        by_length: dict[int, list[PackedRow]] = {}
        for kind, rows in work.samples(self.update.task).items():
            packed = [PackedRow(KINDS.index(kind), kind == "text", tuple(samples)) for samples in rows]
            by_length.setdefault(getattr(work, kind)[1], []).extend(packed)
        self.batches = []
        for length, rows in by_length.items():
            parts = -(-len(rows) // work.micro_batch)
            self.batches += [self.update.task.collator(length)(rows[part::parts]) for part in range(parts)]

    def __call__(self) -> None:
        self.update(self.batches)


class Stock:
    """Stock TorchScale, as KOSMOS-2's public code trains, with `more` options. A stream's samples are a micro-batch."""

    def __init__(self, work: Work, *more: str):
        arguments = f"--arch stock {preset_options(work.arch)} {STOCK_OPTIONS} {' '.join(more)}"
        self.update = FairseqUpdate(configuration(work, arguments))
        self.update.model.load_state_dict(our_model(work)[1].state_dict())
        self.load(work)

    def load(self, work: Work) -> None:
        task = self.update.task
        self.batches = [stock_batch(samples, collator(task)) for samples in samples_by_stream(work, task)]

    def __call__(self) -> None:
        self.update(self.batches)


class Kosmos2:
    """transformers' KOSMOS-2. A stream's samples are a micro-batch."""

    def __init__(self, work: Work):
        self.task, model = our_model(work)
        self.encoder = model.vision.encoder
        self.update = Kosmos2Update(kosmos2_model(model, self.task.vocabulary))
        self.load(work)

    def load(self, work: Work) -> None:
        streams = samples_by_stream(work, self.task)
        self.batches = [kosmos2_batch(samples, collator(self.task), self.encoder) for samples in streams]

    def __call__(self) -> None:
        self.update(self.batches)


class FairseqUpdate:
    """A model and fairseq's trainer for it."""

    def __init__(self, config: DictConfig):
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # random numbers take a CPU many seconds
            self.task, self.model = task_and_model(config)
        self.trainer = Trainer(config, self.task, self.model, build_criterion(config.criterion, self.task))
        self.trainer.cuda_env = None  # with it, the trainer resets torch's peak of memory at the end of each update

    def __call__(self, batches: list[dict]) -> None:
        before = self.trainer.get_num_updates()
        self.trainer.train_step(batches)
        if self.trainer.get_num_updates() == before:
            raise MemoryError("fairseq skipped the update because memory ran out")


def warm_up(way: Ours | Stock | Kosmos2, work: Work) -> None:
    """Run the slow first update, which allocates the optimizer's moments and compiles; then reset the peak of memory.

    On a CPU, short rows of the same streams are enough. On a GPU they would only be compiled for nothing.
    """
    if torch.cuda.is_available():
        way()
        way()
        reset_peak()
        return
    short = {name: (1, 256) for name in KINDS if getattr(work, name)[0]}
    way.load(dataclasses.replace(work, images=min(work.images, 1), **short))
    way()
    way.load(work)
    reset_peak()


# ---- Building ----


def configuration(work: Work, arguments: str) -> DictConfig:
    """The configuration that `fairseq-train DATA …` parses; on a GPU in bf16."""
    precision = "--bf16" if torch.cuda.is_available() else "--cpu"
    line = f"{COMMON} {arguments} --tokens-per-sample {work.length} {work.options} {precision}"
    namespace = options.parse_args_and_arch(options.get_training_parser(), [str(work.data), *line.split()])
    return convert_namespace_to_omegaconf(namespace)


def preset_options(arch: str) -> str:
    """The architecture's differences from kosmos_1, as options."""
    preset, default = ARCHITECTURES[arch](), KosmosConfig()
    values = {option.name: getattr(preset, option.name) for option in dataclasses.fields(preset)}
    changed = {name: value for name, value in values.items() if value != getattr(default, name)}
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in changed.items())


def task_and_model(config: DictConfig) -> tuple[KosmosMultimodalTask, torch.nn.Module]:
    task = tasks.setup_task(config.task)
    torch.manual_seed(config.common.seed)
    return task, task.build_model(config.model)


def our_model(work: Work) -> tuple[KosmosMultimodalTask, KosmosModel]:
    """Our model without a trainer; all implementations get its weights."""
    return task_and_model(configuration(work, f"--arch {work.arch} {STOCK_OPTIONS}"))


def collator(task: KosmosMultimodalTask, length: int | None = None) -> Collator:
    cfg = task.cfg
    return Collator(task.vocabulary, length or cfg.tokens_per_sample, cfg.image_size, task.skips, str(cfg.image_fit))


def samples_by_stream(work: Work, task: KosmosMultimodalTask) -> list[list[Sample]]:
    return [[sample for row in rows for sample in row] for rows in work.samples(task).values()]
