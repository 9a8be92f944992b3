"""transformers' `Kosmos2ForConditionalGeneration` with small random weights, in a folder as its authors publish it."""

import json
import shutil
from pathlib import Path

import torch
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from transformers import (
    CLIPImageProcessor,
    Kosmos2Config,
    Kosmos2ForConditionalGeneration,
    Kosmos2Processor,
    XLMRobertaTokenizer,
)

from tests import tiny

NO_TEXT = 3  # pieces of a SentencePiece model that are not text: <unk>, <s>, </s>
TEXT = {"embed_dim": 32, "layers": 3, "ffn_dim": 64, "attention_heads": 2, "max_position_embeddings": 128}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": tiny.IMAGE_SIZE,
    "patch_size": 16,
}


def write_folder(folder: Path, seed: int = 0, max_shard_size: str = "5GB", text=(), vision=(), **options) -> Path:
    """A model with seeded random weights (norms and biases too), its tokenizer and image processor."""
    words = write_processor(folder)
    config = Kosmos2Config(
        text_config={**TEXT, "vocab_size": words, **dict(text)},
        vision_config={**VISION, **dict(vision)},
        latent_query_num=tiny.IMAGE_TOKENS,
        **options,
    )
    torch.manual_seed(seed)
    model = Kosmos2ForConditionalGeneration(config)
    for parameter in model.parameters():
        parameter.data += 0.15 * torch.randn_like(parameter)
    # Greater variance of its logit, so that `</s>` ends some generations but not all.
    model.get_input_embeddings().weight.data[config.text_config.eos_token_id] *= 4
    model.save_pretrained(str(folder), max_shard_size=max_shard_size)
    return folder


def write_processor(folder: Path, pieces: int | None = None) -> int:
    """A new folder with a tokenizer and an image processor; returns the number of words.

    The words are tests.tiny's, filled up with made-up ones to `pieces` if that is given.
    """
    folder.mkdir(parents=True)
    tiny.write_vocabulary(folder / "vocabulary")
    model = ModelProto.FromString((folder / "vocabulary" / "sentencepiece.model").read_bytes())
    shutil.rmtree(folder / "vocabulary")
    for number in range(len(model.pieces), (pieces or 0) + NO_TEXT):
        model.pieces.add(piece=f"▁word{number}", score=-100.0)
    (folder / "sentencepiece.bpe.model").write_bytes(model.SerializeToString())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLMRobertaTokenizer"}))
    processor = Kosmos2Processor(CLIPImageProcessor(), XLMRobertaTokenizer.from_pretrained(str(folder)))
    processor.save_pretrained(str(folder))
    return len(processor.tokenizer)


def load_strictly(folder: Path) -> Kosmos2ForConditionalGeneration:
    """`from_pretrained`, with no key missing, unexpected or of another shape."""
    model, report = Kosmos2ForConditionalGeneration.from_pretrained(str(folder), output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()
