"""One update of a model on noise, as it is timed: ours and *stock* by fairseq's `Trainer.train_step`, and transformers'.

All three have the same weights, samples and optimizer settings; ours and *stock* are command lines of `fairseq-train`.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer
from omegaconf import DictConfig

from kosmos_plugin.data.batch import Collator
from kosmos_plugin.data.packing import PackedRow
from kosmos_plugin.data.samples import Sample
from kosmos_plugin.models.config import ARCHITECTURES, KosmosConfig
from kosmos_plugin.models.kosmos import KosmosModel
from kosmos_plugin.tasks.kosmos_multimodal import KosmosMultimodalTask
from tests.benchmarks.noise import Noise
from tests.benchmarks.peers.kosmos2 import Kosmos2Update, kosmos2_batch, kosmos2_model
from tests.benchmarks.peers.stock import stock_batch

KINDS = ("text", "captions", "interleaved")  # the streams of noise.write_data, by their numbers
SEED = 3

COMMON = f"""
--task kosmos_multimodal --vision-weights none --optimizer adam --adam-betas (0.9,0.98) --adam-eps 1e-6
--weight-decay 0.01 --lr 2e-4 --clip-norm 1.0 --seed {SEED} --no-save --log-format none
"""


def our_options() -> str:
    """What ours adds to COMMON: the fastest way on this device."""
    return ""


@dataclass(frozen=True)
class Work:
    """A model, and what an update trains it on: rows of each stream as (rows, tokens a row)."""

    data: Path  # of noise.write_data
    arch: str
    options: str = ""  # of the model and the task, beyond the architecture's
    text: tuple[int, int] = (0, 0)
    captions: tuple[int, int] = (0, 0)
    interleaved: tuple[int, int] = (0, 0)
    images: int = 2  # of an interleaved document, which fills a row

    def samples(self, task: KosmosMultimodalTask) -> dict[str, list[list[Sample]]]:
        """The samples of each row, by stream; the same whenever they are drawn."""
        noise = Noise(task.sample_format, task.cfg.image_size, SEED)
        drawn = {
            "text": [[noise.text(self.text[1])] for _ in range(self.text[0])],
            "captions": [noise.captions(self.captions[1]) for _ in range(self.captions[0])],
            "interleaved": [[noise.page(self.images, self.interleaved[1])] for _ in range(self.interleaved[0])],
        }
        return {kind: rows for kind, rows in drawn.items() if rows}


# ---- The three ways ----


def ours(work: Work) -> "FairseqUpdate":
    """Ours. Rows of equal length are a micro-batch."""
    config = configuration(work, f"--arch {work.arch} --criterion multimodal_cross_entropy {our_options()}")
    task, model = task_and_model(config)
    rows: dict[int, list[PackedRow]] = {}
    for kind, drawn in work.samples(task).items():
        packed = [PackedRow(KINDS.index(kind), kind == "text", tuple(samples)) for samples in drawn]
        rows.setdefault(getattr(work, kind)[1], []).extend(packed)
    return FairseqUpdate(config, task, model, [collator(task, length)(packed) for length, packed in rows.items()])


def stock(work: Work, *more: str) -> "FairseqUpdate":
    """The public relative's way, `more` options given. A stream's samples are a micro-batch."""
    arch = f"--arch stock {preset_options(work.arch)}"
    config = configuration(work, f"{arch} --criterion cross_entropy {' '.join(more)}")
    task, model = task_and_model(config)
    model.load_state_dict(our_model(work).state_dict())
    batches = [stock_batch(samples, collator(task)) for samples in samples_by_stream(work, task)]
    return FairseqUpdate(config, task, model, batches)


def kosmos2(work: Work) -> Kosmos2Update:
    """transformers' way, of the architecture kosmos_2. A stream's samples are a micro-batch."""
    task, model = task_and_model(configuration(work, f"--arch {work.arch}"))
    encoder = model.vision.encoder
    batches = [kosmos2_batch(samples, collator(task), encoder) for samples in samples_by_stream(work, task)]
    return Kosmos2Update(kosmos2_model(model, task.vocabulary), batches)


class FairseqUpdate:
    """Calling it makes one update on `batches`, its micro-batches."""

    def __init__(self, config: DictConfig, task: KosmosMultimodalTask, model: torch.nn.Module, batches: list[dict]):
        self.model = model
        self.batches = batches
        self.trainer = Trainer(config, task, model, task.build_criterion(config.criterion))

    def __call__(self) -> None:
        self.trainer.train_step(self.batches)


# ---- Building ----


def configuration(work: Work, arguments: str) -> DictConfig:
    """As `fairseq-train DATA …` parses it; on a GPU in bf16."""
    tokens = max(length for _, length in (work.text, work.captions, work.interleaved))
    precision = "--bf16" if torch.cuda.is_available() else "--cpu"
    line = f"{COMMON} {arguments} --tokens-per-sample {tokens} {work.options} {precision}"
    namespace = options.parse_args_and_arch(options.get_training_parser(), [str(work.data), *line.split()])
    return convert_namespace_to_omegaconf(namespace)


def preset_options(arch: str) -> str:
    """What the architecture says otherwise than kosmos_1, as options."""
    preset, default = ARCHITECTURES[arch](), KosmosConfig()
    values = {option.name: getattr(preset, option.name) for option in dataclasses.fields(preset)}
    changed = {name: value for name, value in values.items() if value != getattr(default, name)}
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in changed.items())


def task_and_model(config: DictConfig) -> tuple[KosmosMultimodalTask, torch.nn.Module]:
    task = tasks.setup_task(config.task)
    torch.manual_seed(config.common.seed)
    return task, task.build_model(config.model)


def our_model(work: Work) -> KosmosModel:
    return task_and_model(configuration(work, f"--arch {work.arch}"))[1]


def collator(task: KosmosMultimodalTask, length: int | None = None) -> Collator:
    cfg = task.cfg
    return Collator(task.vocabulary, length or cfg.tokens_per_sample, cfg.image_size, task.skips, str(cfg.image_fit))


def samples_by_stream(work: Work, task: KosmosMultimodalTask) -> list[list[Sample]]:
    return [[sample for row in rows for sample in row] for rows in work.samples(task).values()]
