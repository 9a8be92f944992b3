"""The host memory of a rank: its process and its workers, batches on their way, and a checkpoint on its way to disk.

The sizes of processes were measured (`tests/benchmarks/reading_memory.py`, which shows whether they grow). The rest
follows from shapes. The order of the data takes none, as it is computed; of a corpus, a process keeps a little for each
tar, and what it reads of indexes, lengths and binarized text is in the system's cache, which other programs can have.
"""

from omegaconf import DictConfig

from kosmos_plugin.data.config import DataConfig
from kosmos_plugin.planning.costs import ADAM, ADAM_MOMENTS, MemoryItem, copies_weights

MIB = 2**20
# PSS on Linux of a rank of fairseq-train with a tiny model (measured: 495 to 531) and of a worker (137 to 231); it is
# less the more processes share the libraries. Without CUDA, which may take some GiB in each rank.
RANK_MIB, WORKER_MIB = 550, 200
# Of a tar's path, and of where it and its index begin.
BYTES_PER_TAR = 250
MANY_TARS = 1000  # fewer make no difference; a pattern whose files are elsewhere counts as one
# Batches that a worker has begun or finished before they are asked for: torch's default.
PREFETCHED = 2


def batch_bytes(rows: int, tokens: int, images: int, image_size: int) -> int:
    """Bytes of a micro-batch as workers make it, without its plan: `data.batch.Batch`."""
    return rows * tokens * (3 * 8 + 1) + 8 * rows + images * 3 * image_size**2


def checkpoint_items(config: DictConfig, trainable: int, frozen: int, tied: int) -> list[MemoryItem]:
    """What a checkpoint has of a model and its optimizer.

    To save them, fairseq turns 16 bits into 32, one weight at a time, so that tied ones are there twice.

    Args:
        config: fairseq's configuration of the training.
        trainable: Number of trainable parameters.
        frozen: Number of frozen parameters.
        tied: Parameters of the embeddings if they are the output matrix, too; 0 if they are not.
    """
    saved = trainable + frozen + (tied if config.common.fp16 or config.common.bf16 else 0)
    if config.model.get("lora_rank"):  # an adapter is saved without its base
        saved = trainable
    items = [MemoryItem("weights", 4, saved)]
    if config.checkpoint.no_save_optimizer_state:
        return items
    if copies_weights(config):
        items.append(MemoryItem("the optimizer's copy of the weights", 4, trainable))
    if config.optimizer._name in ADAM:
        items.append(MemoryItem("Adam's moments", 4 * ADAM_MOMENTS, trainable))
    return items


def host_items(config: DictConfig, data: DataConfig, rows: int, images: int) -> list[MemoryItem]:
    """The host memory of a rank while it trains.

    Args:
        config: fairseq's configuration of the training.
        data: The data YAML.
        rows: Rows of a micro-batch.
        images: Its images.
    """
    task, workers = config.task, config.dataset.num_workers
    processes = workers + 2 if workers else 1  # workers, and one that plans
    tars = sum(len(corpus.train) for stream in data.streams if stream.kind != "text" for corpus in stream.corpora)
    items = [MemoryItem("the rank's process, without CUDA", RANK_MIB * MIB, 1, "process")]
    if workers:
        items.append(MemoryItem("workers, and one that plans", WORKER_MIB * MIB, workers + 1, "processes"))
    size = batch_bytes(rows, task.tokens_per_sample, images, task.image_size)
    items.append(MemoryItem("micro-batches on their way", size, PREFETCHED * workers + 1, "batches"))
    if tars > MANY_TARS:
        items.append(MemoryItem("paths and places of tars", BYTES_PER_TAR * processes, tars, "tars"))
    return items
