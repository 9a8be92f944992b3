"""The fairseq task: wires the data YAML, the mixture and the model together. No tensor code."""

from dataclasses import dataclass, field
from typing import Optional

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II

from kosmos_plugin.data.batch import Collator
from kosmos_plugin.data.config import SPLITS, DataConfig, read_data_config
from kosmos_plugin.data.micro_batches import MicroBatches
from kosmos_plugin.data.mixture import Mixture
from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.data.skips import SkipCounter
from kosmos_plugin.errors import UserError, print_user_errors_plainly
from kosmos_plugin.fairseq_modules.epoch_iterator import EpochIterator
from kosmos_plugin.fairseq_modules.eval_lm import ScoringBatches
from kosmos_plugin.images import DECODINGS, FITS
from kosmos_plugin.vocabulary import Vocabulary


@dataclass
class KosmosMultimodalConfig(FairseqDataclass):
    data: Optional[str] = field(default=None, metadata={"help": "the data YAML: streams, corpora, vocabulary"})
    vocabulary: Optional[str] = field(
        default=None, metadata={"help": "folder of sentencepiece.model and dict.txt (default: the data YAML's)"}
    )
    image_tokens: int = field(default=64, metadata={"help": "embeddings an image takes in a sequence"})
    image_size: int = field(default=224, metadata={"help": "height and width of the vision encoder's input, in pixels"})
    image_fit: ChoiceEnum(FITS) = field(
        default="crop",
        metadata={"help": "how an image is made square: crop (CLIP's preprocessing) or stretch (as in KOSMOS-2)"},
    )
    image_decoding: ChoiceEnum(DECODINGS) = field(
        default="draft",
        metadata={
            "help": "exact (open_clip's pixels), draft (large JPEGs are scaled down while they are decoded: nearly the "
            "same) or fast (also resized by torch: half the time, pixels off by 2 of 255 at most)"
        },
    )
    tokens_per_sample: int = field(default=2048, metadata={"help": "length of a row, and the longest sequence"})
    max_skipped_rate: float = field(
        default=0.05, metadata={"help": "share of broken records and images above which training stops"}
    )
    seed: int = II("common.seed")
    # Not options of the task's own: what fairseq does not hand to its tasks, but the batches depend on.
    update_freq: list[int] = II("optimization.update_freq")


@register_task("kosmos_multimodal", dataclass=KosmosMultimodalConfig)
class KosmosMultimodalTask(FairseqTask):
    """Training, validation and scoring of a KOSMOS model on streams of text, captions and interleaved documents."""

    def __init__(self, cfg: KosmosMultimodalConfig, data: DataConfig | None, vocabulary: Vocabulary):
        super().__init__(cfg)
        self.data = data
        self.vocabulary = vocabulary
        self.sample_builder = SampleBuilder(vocabulary, cfg.image_tokens, cfg.tokens_per_sample)
        self.skips = SkipCounter(cfg.max_skipped_rate)
        self.needs_pretrained_weights = True
        self.training_batches: EpochIterator | None = None

    @classmethod
    def setup_task(cls, cfg: KosmosMultimodalConfig, **kwargs) -> "KosmosMultimodalTask":
        print_user_errors_plainly()
        if cfg.data is None and cfg.vocabulary is None:
            raise UserError("Give the data YAML: fairseq-train DATA.yaml --task kosmos_multimodal …")
        from_checkpoint = kwargs.get("from_checkpoint", False) and cfg.vocabulary is not None
        data = None if from_checkpoint else read_data_config(cfg.data)
        return cls(cfg, data, Vocabulary.load(cfg.vocabulary or data.vocabulary))

    @property
    def source_dictionary(self):
        return self.vocabulary.dictionary

    @property
    def target_dictionary(self):
        return self.vocabulary.dictionary

    @property
    def stream_names(self) -> list[str]:
        return [stream.name for stream in self.data.streams] if self.data else []

    def max_positions(self) -> int:
        return self.cfg.tokens_per_sample

    def build_model(self, cfg, from_checkpoint: bool = False):
        """As fairseq's; pretrained weights are not read where a checkpoint's are about to be."""
        self.needs_pretrained_weights = not from_checkpoint
        return super().build_model(cfg, from_checkpoint)

    def load_dataset(self, split: str, combine: bool = False, task_cfg=None, **kwargs) -> None:
        """`train` or `valid`: every stream that has corpora for it."""
        if self.data is None:
            raise UserError("Give the data YAML: this task was set up with a vocabulary alone.")
        if split not in SPLITS:
            raise UserError(f"The data YAML has the splits {' and '.join(SPLITS)}, not {split!r}.")
        self.datasets[split] = Mixture(self.data, split, self.sample_builder, self.cfg.seed, self.skips)

    def dataset(self, split: str) -> Mixture:
        if split not in self.datasets:
            raise KeyError(f"the split {split} is not loaded")
        return self.datasets[split]

    def get_batch_iterator(
        self,
        dataset: Mixture,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 0,
        epoch: int = 1,
        **kwargs,
    ) -> EpochIterator:
        """The micro-batches of rank `shard_id` of `num_shards`.

        How many sequences an update takes is the data YAML's to say; --batch-size and --max-tokens are the most rows
        and tokens a micro-batch may have. The remaining arguments of fairseq's concern its own kind of datasets.
        """
        update_freq = self.cfg.update_freq
        if len(update_freq) != 1:
            raise UserError(f"--update-freq must be one number with this task, not {list(update_freq)}.")
        training = dataset is self.datasets.get("train")
        collate = Collator(
            self.vocabulary,
            self.cfg.tokens_per_sample,
            self.cfg.image_size,
            self.skips,
            str(self.cfg.image_fit),
            str(self.cfg.image_decoding),
        )
        micro_batches = MicroBatches(dataset, collate, shard_id, num_shards, update_freq[0])
        if training:
            micro_batches.check_fit(max_sentences, max_tokens)
        batches = EpochIterator(micro_batches, len(dataset), num_workers, epoch, endless=training)
        if training:
            self.training_batches = batches
        return batches

    def eval_lm_dataloader(
        self, dataset: Mixture, num_shards: int = 1, shard_id: int = 0, num_workers: int = 0, **kwargs
    ):
        """fairseq-eval-lm: the rows of the text streams, in fairseq's own batch format."""
        return torch.utils.data.DataLoader(
            ScoringBatches(dataset, self.vocabulary, num_shards, shard_id), batch_size=None, num_workers=num_workers
        )

    def reduce_metrics(self, logging_outputs, criterion) -> None:
        super().reduce_metrics(logging_outputs, criterion)
        if self.skips.skipped:
            metrics.log_scalar("skipped", self.skips.skipped, weight=0, round=0, priority=1600)
        if criterion.training and self.training_batches is not None:
            updates = self.training_batches.updates_done
            for stream in self.dataset("train").streams:
                for corpus, epochs in stream.epochs(updates).items():
                    name = f"epochs_{stream.config.name}_{corpus}"
                    metrics.log_scalar(name, epochs, weight=0, round=3, priority=1700)
