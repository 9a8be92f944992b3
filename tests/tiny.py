"""Tiny real data and a tiny model for tests: a vocabulary, shards of all three kinds, a CLIP of two layers.

Everything is a pure function of the arguments: the same call writes the same bytes.
"""

import io
import json
import random
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import yaml
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder
from fairseq_cli import train as fairseq_train
from PIL import Image

from kosmos_plugin.data.batch import Batch
from kosmos_plugin.data.documents import Image as DocumentImage
from kosmos_plugin.fairseq_modules.architectures import KosmosModel
from kosmos_plugin.fairseq_modules.task import KosmosMultimodalTask
from kosmos_plugin.fairseq_modules.task_options import KosmosMultimodalConfig
from kosmos_plugin.images import decode_image
from kosmos_plugin.models.config import KosmosTinyConfig
from kosmos_plugin.vocabulary import Vocabulary, write_dictionary

WORDS = (
    "a the red green blue small large round old new cat dog bird house tree river mountain car boat "
    "runs sleeps stands sees follows near under over behind with of and slowly quickly today"
).split()
IMAGE_SIZE = 32
IMAGE_TOKENS = 4
TOKENS_PER_SAMPLE = 64
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": IMAGE_SIZE, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 16, "heads": 2, "layers": 1},
}


def sentence(rng: random.Random, words: tuple[int, int] = (3, 12)) -> str:
    """Random words; their number is between the two numbers in `words`."""
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(*words)))


def png(rng: random.Random, size: int = IMAGE_SIZE) -> bytes:
    """A square of noise, `size` pixels wide, as PNG."""
    pixels = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_vocabulary(folder: Path, pieces: int = 200) -> Vocabulary:
    """Train a SentencePiece model on sentences of WORDS, and write it with its dict.txt into the new `folder`."""
    folder.mkdir(parents=True)
    rng = random.Random(0)
    with open(folder / "sentencepiece.model", "wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(
                [sentence(rng) for _ in range(2000)] + ["Question: Answer: <image> </s> 0123456789"]
            ),
            model_writer=model,
            vocab_size=pieces,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    write_dictionary(folder)
    return Vocabulary.load(folder)


def write_text(prefix: Path, documents: list[list[int]], eos: int | None) -> None:
    """Write token lists as PREFIX.bin and .idx in fairseq's mmap format, with `eos` after each unless it is None."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    builder = MMapIndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for document in documents:
        builder.add_item(torch.tensor([*document, *([] if eos is None else [eos])]))
    builder.finalize(f"{prefix}.idx")


def encoded_lines(vocabulary: Vocabulary, words: list[str]) -> list[int]:
    """The words as tokens, in lines of four words with `</line>` between them."""
    tokens: list[int] = []
    for start in range(0, len(words), 4):
        tokens += [vocabulary.line_end] * (start > 0) + vocabulary.encode(" ".join(words[start : start + 4]))
    return tokens


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    """Write a tar of (name, content) members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def caption_members(key: str, caption: str, image: bytes) -> list[tuple[str, bytes]]:
    """The members of an image–caption pair."""
    return [(f"{key}.png", image), (f"{key}.txt", caption.encode())]


def interleaved_members(key: str, segments: list[dict], images: list[bytes]) -> list[tuple[str, bytes]]:
    """The members of an interleaved document."""
    numbered = [(f"{key}.{i}.png", image) for i, image in enumerate(images)]
    return [(f"{key}.json", json.dumps({"segments": segments}).encode()), *numbered]


def write_data(folder: Path, documents: int = 40, sequences: tuple[int, int, int] = (2, 6, 4)) -> Path:
    """Write all three streams with a train and a valid split.

    Args:
        folder: A new folder.
        documents: Documents per stream for training; a fifth of this number for validation.
        sequences: Sequences per update of text, captions and interleaved documents.

    Returns:
        The path of data.yaml.
    """
    vocabulary = write_vocabulary(folder / "vocabulary")
    for split, count in (("train", documents), ("valid", max(documents // 5, 2))):
        rng = random.Random(split)
        texts = [encoded_lines(vocabulary, sentence(rng, (5, 46)).split()) for _ in range(count)]
        write_text(folder / "text" / split, texts, vocabulary.eos)
        for shard in range(2):
            captions, pages = [], []
            for i in range(count // 2):
                key = f"{shard:03d}{i:05d}"
                captions += caption_members(key, f"{split} {key} {sentence(rng)}", png(rng))
                images = [png(rng) for _ in range(rng.randint(1, 3))]
                segments = [{"text": f"{split} {key}"}]
                for number in range(len(images)):
                    segments += [{"image": number}, {"text": sentence(rng, (1, 5))}]
                pages += interleaved_members(key, segments, images)
            write_tar(folder / "captions" / f"{split}-{shard}.tar", captions)
            write_tar(folder / "interleaved" / f"{split}-{shard}.tar", pages)
    (folder / "clip.json").write_text(json.dumps(CLIP))
    text, captions, interleaved = sequences
    path = folder / "data.yaml"
    path.write_text(f"""
vocabulary: vocabulary
streams:
  text:
    kind: text
    sequences_per_update: {text}
    corpora: [{{name: words, train: text/train, valid: text/valid}}]
  captions:
    kind: captions
    sequences_per_update: {captions}
    corpora: [{{name: noise, train: "captions/train-{{0..1}}.tar", valid: "captions/valid-{{0..1}}.tar"}}]
  interleaved:
    kind: interleaved
    sequences_per_update: {interleaved}
    corpora: [{{name: pages, train: "interleaved/train-{{0..1}}.tar", valid: "interleaved/valid-{{0..1}}.tar"}}]
""")
    return path


def text_data(data: Path, folder: Path) -> Path:
    """Write a data YAML of only the text stream of `data` into `folder`, and return its path."""
    config = yaml.safe_load(data.read_text())
    text = config["streams"]["text"]
    for corpus in text["corpora"]:
        corpus.update({split: str(data.parent / corpus[split]) for split in ("train", "valid")})
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({"vocabulary": str(data.parent / "vocabulary"), "streams": {"text": text}}))
    (folder / "clip.json").write_text(json.dumps(CLIP))
    return path


def task(data: Path, update_freq: int = 1, **options: Any) -> KosmosMultimodalTask:
    """The task on a tiny data YAML; `options` are those of the task."""
    cfg = KosmosMultimodalConfig(
        **{
            "data": str(data),
            "image_tokens": IMAGE_TOKENS,
            "image_size": IMAGE_SIZE,
            "tokens_per_sample": TOKENS_PER_SAMPLE,
            **options,
        }
    )
    cfg.seed, cfg.update_freq = options.get("seed", 1), [update_freq]
    return KosmosMultimodalTask.setup_task(cfg)


def batch(a_task: KosmosMultimodalTask) -> Batch:
    """The first training batch."""
    a_task.load_dataset("train")
    return a_task.get_batch_iterator(a_task.dataset("train"), max_sentences=100).micro_batches[0]


def model_config(data: Path, **options: Any) -> KosmosTinyConfig:
    """The configuration of a model of two layers with a random CLIP of two; `options` are those of the model."""
    config = KosmosTinyConfig(
        **{
            "decoder_layers": 2,
            "decoder_embed_dim": 32,
            "decoder_ffn_embed_dim": 64,
            "decoder_attention_heads": 2,
            "vision_encoder": "clip",
            "vision_model": str(data.parent / "clip.json"),
            "vision_weights": "none",
            **options,
        }
    )
    config.image_tokens, config.image_size, config.tokens_per_sample = IMAGE_TOKENS, IMAGE_SIZE, TOKENS_PER_SAMPLE
    config.image_fit = "crop"
    return config


def model(a_task: KosmosMultimodalTask, seed: int = 0, **options: Any) -> KosmosModel:
    """The tiny model for `a_task`, with seeded random weights, in evaluation mode."""
    torch.manual_seed(seed)
    config = model_config(Path(a_task.cfg.data), **options)
    config.image_tokens, config.image_fit = a_task.cfg.image_tokens, a_task.cfg.image_fit
    return KosmosModel.build_model(config, a_task).eval()


TRAIN_OPTIONS = (
    f"--task kosmos_multimodal --arch kosmos_tiny --criterion multimodal_cross_entropy --image-tokens {IMAGE_TOKENS} "
    f"--image-size {IMAGE_SIZE} --tokens-per-sample {TOKENS_PER_SAMPLE} --decoder-layers 2 --decoder-embed-dim 32 "
    "--decoder-ffn-embed-dim 64 --decoder-attention-heads 2 --vision-encoder clip --vision-weights none "
    "--batch-size 64 --optimizer adam --lr 0.001 --log-format json --log-interval 1"
)


def train(data: Path, folder: Path, *options: object) -> Path:
    """Run fairseq-train in this process, with its checkpoints in `folder`, and return the last checkpoint."""
    arguments = [data, *TRAIN_OPTIONS.split(), "--vision-model", data.parent / "clip.json", *options]
    before, sys.argv = sys.argv, ["fairseq-train", *map(str, arguments), "--save-dir", str(folder)]
    try:
        fairseq_train.cli_main()
    finally:
        sys.argv = before
    return folder / "checkpoint_last.pt"


def decode(image: DocumentImage) -> torch.Tensor:
    """Decode an image of a sample as the model takes it, uint8 [3, S, S]."""
    return decode_image(image.read(), IMAGE_SIZE)
