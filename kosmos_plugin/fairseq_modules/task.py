"""The fairseq task: wires the data YAML, the mixture and the model together. No tensor code."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from fairseq.criterions import CRITERION_REGISTRY, FairseqCriterion
from fairseq.data import Dictionary
from fairseq.dataclass import FairseqDataclass
from fairseq.distributed.utils import get_global_rank
from fairseq.logging import metrics
from fairseq.models import BaseFairseqModel
from fairseq.tasks import FairseqTask, register_task

from kosmos_plugin.data.batch import Collator
from kosmos_plugin.data.config import SPLITS, DataConfig, read_data_config
from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.data.skips import SkipCounter
from kosmos_plugin.errors import UserError, did_you_mean, print_user_errors_plainly
from kosmos_plugin.fairseq_modules.criterion import CRITERION, MultimodalCrossEntropyCriterion, read_at_once
from kosmos_plugin.fairseq_modules.managed_training import ValidationStopped
from kosmos_plugin.fairseq_modules.profiling import UpdateProfiler
from kosmos_plugin.fairseq_modules.stall_watch import Progress
from kosmos_plugin.fairseq_modules.task_options import KosmosMultimodalConfig
from kosmos_plugin.fairseq_modules.throughput import Throughput
from kosmos_plugin.fairseq_modules.training_options import (
    check_training_options,
    fairseq_config,
    starts_from_model,
)
from kosmos_plugin.fairseq_modules.update_checks import UpdateChecks
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.vocabulary import Vocabulary

if TYPE_CHECKING:
    from kosmos_plugin.data.mixture import Mixture
    from kosmos_plugin.fairseq_modules.epoch_iterator import EpochIterator
    from kosmos_plugin.models.batch_plan import BatchPlanner

logger = logging.getLogger(__name__)

FULL_ENOUGH = 0.95  # share of positions that full-sentence rows fill


@register_task("kosmos_multimodal", dataclass=KosmosMultimodalConfig)
class KosmosMultimodalTask(FairseqTask):
    """Training, validation and scoring of a KOSMOS model on streams of text, captions and interleaved documents.

    Args:
        cfg: The options.
        data: The data YAML; None for a task without data.
        vocabulary: The vocabulary.
    """

    def __init__(self, cfg: KosmosMultimodalConfig, data: DataConfig | None, vocabulary: Vocabulary):
        super().__init__(cfg)
        self.data = data
        self.vocabulary = vocabulary
        self.sample_builder = SampleBuilder(vocabulary, cfg.image_tokens, cfg.tokens_per_sample)
        self.skips = SkipCounter(cfg.max_skipped_rate)
        self.needs_pretrained_weights = True
        self.lora_base: str | None = None  # with --lora-rank, the fingerprint of the model that is adapted
        self.vision_model = ""  # the content of the JSON file of the vision encoder, if it has one
        self.training_batches: EpochIterator | None = None
        self.planner: BatchPlanner | None = None  # known when the model is
        self.throughput: Throughput | None = None
        self.progress = Progress()
        self.stop_agreed = False  # whether a signal asked any rank to stop; the same on all ranks after each update
        self.update_checks = UpdateChecks(
            cfg.max_skipped_updates, cfg.spike_window, cfg.spike_deviations, cfg.skip_spikes
        )
        self.profiler = UpdateProfiler(cfg.profile_updates) if cfg.profile_updates is not None else None

    @classmethod
    def setup_task(cls, cfg: KosmosMultimodalConfig, **kwargs: Any) -> "KosmosMultimodalTask":
        """Read the data YAML and the vocabulary.

        With `from_checkpoint` (fairseq's) and a `--vocabulary`, the data YAML is not read: it may be gone.
        """
        from kosmos_plugin.fairseq_modules import resuming, saving
        from kosmos_plugin.fairseq_modules.restoring import restore_for

        print_user_errors_plainly()
        if kwargs.get("from_checkpoint", False):
            if cfg.vocabulary is not None:
                return cls(cfg, None, Vocabulary.load(cfg.vocabulary))
        elif cfg.fp16 is True and not torch.cuda.is_available():
            raise UserError("--fp16 needs a GPU, and there is none: give --bf16, or neither.")
        if cfg.data is None:
            raise UserError("Give the data YAML: fairseq-train DATA.yaml --task kosmos_multimodal …")
        data = read_data_config(cfg.data)
        task = cls(cfg, data, Vocabulary.load(cfg.vocabulary or data.vocabulary))
        restore_for(task.vocabulary)
        resuming.apply()
        saving.apply()
        return task

    @property
    def source_dictionary(self) -> Dictionary:
        return self.vocabulary.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        return self.vocabulary.dictionary

    @property
    def stream_names(self) -> list[str]:
        """In the order of the data YAML."""
        return [stream.name for stream in self.data.streams] if self.data else []

    def max_positions(self) -> int:
        return self.cfg.tokens_per_sample

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> BaseFairseqModel:
        """Build the model. Pretrained weights are not read if a checkpoint's will be loaded.

        Raises:
            UserError: The training was given options that it cannot honour.
        """
        # Imported here, as in other methods: every run of fairseq imports this module.
        from kosmos_plugin.checkpoints.embedded import vision_model_content
        from kosmos_plugin.fairseq_modules import fully_sharded
        from kosmos_plugin.fairseq_modules.planner import planner_for
        from kosmos_plugin.fairseq_modules.restoring import restore_for

        if not from_checkpoint:
            check_training_options(self.cfg, self.data)
        self.needs_pretrained_weights = not from_checkpoint and not starts_from_model(self.cfg)
        lora_base = getattr(cfg, "lora_base", None)
        if lora_base is not None:  # as checkpoints record it, so that they find it from anywhere
            cfg.lora_base = os.path.abspath(lora_base)
        self.vision_model = vision_model_content(str(getattr(cfg, "vision_model", ""))) or ""
        model = super().build_model(cfg, from_checkpoint)
        if isinstance(model, Kosmos):
            if from_checkpoint and self.lora_base not in (None, model.lora_base):
                raise UserError(
                    f"The checkpoint is an adapter for another model than {lora_base}, whose weights differ."
                )
            self.lora_base = model.lora_base
        if not from_checkpoint:
            restore_for(self.vocabulary, model)
        if isinstance(model, Kosmos):
            if not from_checkpoint:
                self.planner = planner_for(model, self.vocabulary.pad, self.cfg)
            self.throughput = Throughput(model.config, len(self.vocabulary), self.vocabulary.pad)
            if self.cfg.fully_shard and not from_checkpoint:
                fully_sharded.shard(model, fairseq_config(self.cfg))
        return model

    def build_criterion(self, cfg: Any, **kwargs: Any) -> FairseqCriterion:
        """Build the criterion. Raises UserError for one that cannot use this task's batches, e.g. fairseq's default."""
        name = getattr(cfg, "_name", None) or getattr(cfg, "criterion", None)
        if not issubclass(CRITERION_REGISTRY.get(name, object), MultimodalCrossEntropyCriterion):
            default = ", fairseq's default," if name == "cross_entropy" else ""
            raise UserError(
                f"The criterion {name}{default} cannot train on --task kosmos_multimodal: give --criterion {CRITERION} "
                f"(with Hydra, criterion={CRITERION})."
            )
        return super().build_criterion(cfg, **kwargs)

    def build_generator(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise UserError: fairseq-generate and fairseq-interactive are for translation."""
        raise UserError("--task kosmos_multimodal does not generate with fairseq's commands: use kosmos-generate.")

    def load_dataset(self, split: str, combine: bool = False, task_cfg: Any = None, **kwargs: Any) -> None:
        """Load `train` or `valid`: every stream that has corpora for it."""
        from kosmos_plugin.data.mixture import Mixture

        if self.data is None:
            raise UserError("Give the data YAML: this task was set up with a vocabulary only.")
        if split not in SPLITS and task_cfg is not None:  # fairseq-generate's default, before it builds a generator
            self.build_generator()
        if split not in SPLITS:
            splits = " and ".join(SPLITS)
            raise UserError(f"The data YAML has the splits {splits}, not {split!r}.{did_you_mean(split, SPLITS)}")
        self.datasets[split] = Mixture(self.data, split, self.sample_builder, self.cfg.seed, self.skips)
        if split == "train" and get_global_rank() == 0:
            _warn_of_gaps(self.datasets[split])

    def dataset(self, split: str) -> "Mixture":
        """A loaded split."""
        if split not in self.datasets:
            raise KeyError(f"the split {split} is not loaded")
        return self.datasets[split]

    def get_batch_iterator(
        self,
        dataset: "Mixture",
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 0,
        epoch: int = 1,
        **kwargs: Any,
    ) -> "EpochIterator":
        """The micro-batches of one rank. The data YAML says how many sequences an update takes.

        Args:
            dataset: A loaded split.
            max_tokens: Maximum positions of a micro-batch (--max-tokens, --max-tokens-valid); None: no limit.
            max_sentences: Maximum rows of a micro-batch (--batch-size, --batch-size-valid); None: no limit.
            num_shards: Number of ranks.
            shard_id: This rank, from 0.
            num_workers: Processes that decode images.
            epoch: Number of the first epoch, from 1.
            kwargs: Further arguments of fairseq, for its own datasets.

        Raises:
            UserError: --update-freq is not one number, or an update does not fit the limits.
        """
        from kosmos_plugin.data.micro_batches import MicroBatches, validation_steps
        from kosmos_plugin.fairseq_modules.epoch_iterator import EpochIterator
        from kosmos_plugin.fairseq_modules.nodes import number_of_nodes

        update_freq, nodes = self.cfg.update_freq, number_of_nodes(self.cfg, num_shards)
        if len(update_freq) != 1:
            raise UserError(f"--update-freq must be one number with this task, not {list(update_freq)}.")
        training = dataset is self.datasets.get("train")
        collate = self.collator()
        if training:
            micro_batches = MicroBatches(dataset, collate, shard_id, num_shards, update_freq[0], nodes)
            micro_batches.check_fit(max_sentences, max_tokens)
        else:
            steps = validation_steps(dataset, num_shards, max_sentences, max_tokens) or update_freq[0]
            micro_batches = MicroBatches(dataset, collate, shard_id, num_shards, steps, nodes)
        batches = EpochIterator(micro_batches, len(dataset), num_workers, epoch, training, self.progress)
        if training:
            batches.update_checks = self.update_checks
            self.training_batches = batches
        return batches

    def collator(self, tokens_per_row: int | None = None) -> Collator:
        """Makes batches, with plans for the model if it has been built; rows have `tokens_per_sample` positions."""
        return Collator(
            self.vocabulary,
            tokens_per_row or self.cfg.tokens_per_sample,
            self.cfg.image_size,
            self.skips,
            str(self.cfg.image_fit),
            str(self.cfg.image_decoding),
            self.planner,
        )

    def train_step(
        self,
        sample: Any,
        model: Any,
        criterion: FairseqCriterion,
        optimizer: Any,
        update_num: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, int, dict[str, Any]]:
        """Forward and backward pass of a micro-batch; `update_num` updates were done before."""
        self.progress.update = update_num + 1
        self.progress.mark()
        if self.profiler is not None:
            self.profiler.before(update_num + 1)
        result = super().train_step(sample, model, criterion, optimizer, update_num, *args, **kwargs)
        self.update_checks.logging_outputs.append(result[2])
        return result

    def optimizer_step(self, optimizer: Any, model: torch.nn.Module, update_num: int) -> None:
        """Change the weights at the end of an update, unless its checks skip that."""
        if self.update_checks.skip_step:
            self.update_checks.skip(optimizer)
        else:
            super().optimizer_step(optimizer, model, update_num)
        if self.throughput is not None:
            self.throughput.update_done(next(model.parameters()).device)
        if self.profiler is not None:
            self.profiler.after(update_num + 1, Path(self.cfg.save_dir), get_global_rank())

    def eval_lm_dataloader(
        self, dataset: "Mixture", num_shards: int = 1, shard_id: int = 0, num_workers: int = 0, **kwargs: Any
    ) -> torch.utils.data.DataLoader:
        """The rows of the text streams in fairseq's own batch format, for fairseq-eval-lm."""
        from kosmos_plugin.fairseq_modules.eval_lm import ScoringBatches

        return torch.utils.data.DataLoader(
            ScoringBatches(dataset, self.vocabulary, num_shards, shard_id), batch_size=None, num_workers=num_workers
        )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint records of the task: all that it needs to load anywhere, and an adapter's base."""
        from kosmos_plugin.checkpoints.embedded import embedded_state

        adapted = {} if self.lora_base is None else {"lora_base": self.lora_base}
        return {**embedded_state(self.vocabulary, self.vision_model), **adapted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Encode text as in the training of a checkpoint; checkpoints of version 0.1 record nothing."""
        self.vocabulary.newlines = state.get("newlines", False)
        self.lora_base = state.get("lora_base")

    def reduce_metrics(self, logging_outputs: Sequence[dict[str, Any]], criterion: FairseqCriterion) -> None:
        """Log the criterion's metrics, the skipped records and, in training, throughput and epochs of each corpus.

        Raises:
            ValidationStopped: A signal asked a rank to stop while it validated.
        """
        logging_outputs = read_at_once(logging_outputs)
        super().reduce_metrics(logging_outputs, criterion)
        self.stop_agreed |= any(output.get("stop_requests", 0) for output in logging_outputs)
        if self.stop_agreed and not criterion.training:
            raise ValidationStopped
        if self.skips.skipped:
            metrics.log_scalar("skipped", self.skips.skipped, weight=0, round=0, priority=1600)
        if criterion.training and self.training_batches is not None:
            if self.throughput is not None:
                self.throughput.log(self.training_batches.measured.take())
            self.update_checks.log_counts()
            updates = self.training_batches.updates_done
            for stream in self.dataset("train").streams:
                for corpus, epochs in stream.epochs(updates).items():
                    name = f"epochs_{stream.config.name}_{corpus}"
                    metrics.log_scalar(name, epochs, weight=0, round=3, priority=1700)


def _warn_of_gaps(mixture: "Mixture") -> None:
    """Log which texts have lines too long to fill full-sentence rows well, and what to do."""
    from kosmos_plugin.data.mixture import ConcatenatedRows

    for stream in mixture.streams:
        for name, corpus in zip(stream.names, stream.corpora, strict=True):
            if isinstance(corpus, ConcatenatedRows) and (filled := corpus.filled()) < FULL_ENOUGH:
                logger.warning(
                    f"Rows of the corpus {name} are {filled:.1%} full, as its lines are long. If it was binarized "
                    "without its newlines, binarize it again with kosmos-prepare text and a vocabulary that encodes "
                    "them (encoding.json in its folder); packing: continuous for the stream "
                    f"{stream.config.name} fills all rows."
                )
