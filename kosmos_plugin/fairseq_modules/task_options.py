"""The options of `--task kosmos_multimodal`."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

from kosmos_plugin.images import DECODINGS, FITS


@dataclass
class KosmosMultimodalConfig(FairseqDataclass):
    """Options of the task."""

    data: Optional[str] = field(default=None, metadata={"help": "the data YAML: streams, corpora, vocabulary"})
    vocabulary: Optional[str] = field(
        default=None, metadata={"help": "folder of sentencepiece.model and dict.txt (default: the data YAML's)"}
    )
    image_tokens: int = field(default=64, metadata={"help": "embeddings per image in a sequence"})
    image_size: int = field(default=224, metadata={"help": "height and width of the vision encoder's input, in pixels"})
    image_fit: ChoiceEnum(FITS) = field(  # type: ignore[valid-type]  # how fairseq spells choices
        default="crop",
        metadata={"help": "how an image is made square: crop (CLIP's preprocessing) or stretch (as in KOSMOS-2)"},
    )
    image_decoding: ChoiceEnum(DECODINGS) = field(  # type: ignore[valid-type]
        default="draft",
        metadata={
            "help": "exact (open_clip's pixels), draft (large JPEGs are scaled down while they are decoded: nearly the "
            "same) or fast (also resized by torch: half the time, pixels off by 2 of 255 at most)"
        },
    )
    tokens_per_sample: int = field(default=2048, metadata={"help": "length of a row, and of the longest sequence"})
    max_skipped_rate: float = field(
        default=0.05, metadata={"help": "fraction of broken records and images above which training stops"}
    )
    max_skipped_updates: int = field(
        default=10,
        metadata={
            "help": "updates with a NaN or infinite loss or gradient that are skipped, over the whole training, before "
            "it stops"
        },
    )
    skip_spikes: bool = field(
        default=False,
        metadata={"help": "skip updates with a spike of the loss or of the gradients' norm; they are always logged"},
    )
    spike_window: int = field(default=128, metadata={"help": "updates before it that an update is compared with"})
    spike_deviations: float = field(
        default=6.0, metadata={"help": "a spike is above their mean by more than so many of their standard deviations"}
    )
    profile_updates: Optional[str] = field(
        default=None,
        metadata={
            "help": "trace these updates with torch's profiler, e.g. 20-25; each rank writes "
            "SAVE_DIR/profile_20-25_rankN.json.gz"
        },
    )
    fully_shard: bool = field(
        default=False,
        metadata={
            "help": "divide weights, gradients and the optimizer's state among the GPUs (torch's FSDP2), for models "
            "that do not fit on one; instead of --ddp-backend fully_sharded"
        },
    )
    async_save: bool = field(
        default=False,
        metadata={
            "help": "write checkpoints while the training goes on, from a copy in host memory; instead of fairseq's "
            "--write-checkpoints-asynchronously, which never writes checkpoint_last.pt"
        },
    )
    resume_newest_whole: bool = field(
        default=False,
        metadata={"help": "if checkpoint_last.pt is damaged, go on from the newest whole checkpoint (default: stop)"},
    )
    stall_timeout: int = field(
        default=900,
        metadata={
            "help": "seconds without progress (a micro-batch, a validation step, a checkpoint) after which all ranks "
            "end and the one that is stuck is named; 0: wait forever"
        },
    )
    seed: int = II("common.seed")
    # Not options of the task: fairseq does not pass them to its tasks, but the batches and what can run depend on them.
    update_freq: list[int] = II("optimization.update_freq")
    fp16: bool = II("common.fp16")
    bf16: bool = II("common.bf16")
    amp: bool = II("common.amp")
    cpu: bool = II("common.cpu")
    save_dir: str = II("checkpoint.save_dir")
