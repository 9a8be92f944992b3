"""Vocabulary and image preprocessing ⇄ transformers' tokenizer and image processor (hf).

The tokenizer is XLM-RoBERTa's with KOSMOS-2's tags and location tokens, the image processor CLIP's.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
import sentencepiece
from PIL import Image

from kosmos_plugin.checkpoints.transformers_config import generation_config
from kosmos_plugin.errors import UserError
from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.models.vision import VisionEncoder
from kosmos_plugin.vocabulary import (
    ENCODING_FILE,
    FURTHER_TOKENS_FILE,
    MODEL_FILE,
    SPECIAL_TOKENS,
    Vocabulary,
    write_dictionary,
    write_encoding,
)

if TYPE_CHECKING:
    from transformers import XLMRobertaTokenizer

IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
HF_MODEL_FILE = "sentencepiece.bpe.model"
CODE = Path(__file__).parent.parent / "transformers_code"
PROCESSOR_IMAGE_TOKENS = 64  # Kosmos2Processor's default


def write_vocabulary(source: Path, size: int, folder: Path) -> Vocabulary:
    """Convert the vocabulary of a Hugging Face folder.

    Args:
        source: The Hugging Face folder.
        size: Number of tokens in the model's vocabulary.
        folder: The vocabulary folder to write.

    Raises:
        UserError: A file of the tokenizer is missing or broken, or an id would stand for another token.
    """
    from transformers import XLMRobertaTokenizer

    if not (source / HF_MODEL_FILE).is_file():
        raise UserError(f"{source} has no {HF_MODEL_FILE}, the tokenizer's SentencePiece model.")
    try:
        sentencepiece.SentencePieceProcessor(model_file=str(source / HF_MODEL_FILE))
        tokenizer = XLMRobertaTokenizer.from_pretrained(str(source))
    except Exception as error:  # transformers raises all kinds for broken files
        raise UserError(f"The tokenizer of {source} cannot be read: {error}") from None
    folder.mkdir()
    shutil.copyfile(source / HF_MODEL_FILE, folder / MODEL_FILE)
    write_dictionary(folder)
    if (source / ENCODING_FILE).is_file():  # of a model that was exported from here
        shutil.copyfile(source / ENCODING_FILE, folder / ENCODING_FILE)
    base = len(Vocabulary.load(folder))
    if len(tokenizer) < size or base > size:
        raise UserError(f"The tokenizer of {source} does not have the model's {size:,} tokens.")
    further = tokenizer.convert_ids_to_tokens(list(range(base, size)))
    if further:
        (folder / FURTHER_TOKENS_FILE).write_text("".join(f"{token}\n" for token in further), encoding="utf-8")
    vocabulary = Vocabulary.load(folder)
    _require_same_ids(vocabulary, tokenizer)
    return vocabulary


def image_fit(source: Path) -> str:
    """How the image processor of a Hugging Face folder makes an image square; "stretch" (KOSMOS-2's) without one."""
    from transformers import CLIPImageProcessor

    if not any((source / name).is_file() for name in IMAGE_PROCESSOR_FILES):
        return "stretch"
    try:
        processor: Any = CLIPImageProcessor.from_pretrained(str(source))
    except Exception as error:  # transformers raises all kinds for broken files
        raise UserError(f"The image processor of {source} cannot be read: {error}") from None
    clip = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    if (tuple(processor.image_mean), tuple(processor.image_std)) != clip:
        raise UserError(f"{source} normalizes images with another mean or deviation than CLIP, which is not supported.")
    return "crop" if processor.size.shortest_edge else "stretch"


def write_processor(vocabulary: Vocabulary, encoder: VisionEncoder, config: KosmosConfig, folder: Path) -> None:
    """Write tokenizer and image processor into a Hugging Face folder.

    A `Kosmos2Processor` of both adds KOSMOS-2's 1,030 location tokens and tags. For a vocabulary without them the two
    are written separately. Whether newlines are encoded is recorded in a file that transformers does not read.

    Raises:
        UserError: An id would stand for another token in transformers' tokenizer, or its processor makes another number
            of image tokens.
    """
    from transformers import AddedToken, CLIPImageProcessor, Kosmos2Processor, XLMRobertaTokenizer

    (folder / HF_MODEL_FILE).write_bytes(vocabulary.processor.serialized_model_proto())
    if vocabulary.newlines:
        write_encoding(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLMRobertaTokenizer"}))
    tokenizer = XLMRobertaTokenizer.from_pretrained(str(folder))
    square = {"height": config.image_size, "width": config.image_size}
    images = CLIPImageProcessor(
        size=square if config.image_fit == "stretch" else {"shortest_edge": config.image_size},
        crop_size=square,
        image_mean=list(encoder.mean),
        image_std=list(encoder.std),
    )
    added = [vocabulary.symbol(token) for token in range(vocabulary.image_slot + 1, len(vocabulary))]
    if len(added) == len(SPECIAL_TOKENS) - 1:
        tokenizer.add_tokens([AddedToken(token, lstrip=True, rstrip=False, normalized=False) for token in added])
        images.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
    else:
        if config.image_tokens != PROCESSOR_IMAGE_TOKENS:
            # The processor does not save this number, but takes defaults from its tokenizer's configuration.
            tokenizer.init_kwargs["num_image_tokens"] = config.image_tokens
        Kosmos2Processor(images, tokenizer).save_pretrained(str(folder))
        _require_image_tokens(folder, config)
        _add_chat_processor(vocabulary, config, folder)
    _require_same_ids(vocabulary, tokenizer)


def _add_chat_processor(vocabulary: Vocabulary, config: KosmosConfig, folder: Path) -> None:
    """Add what `transformers serve` needs: a chat template, and where generation ends.

    transformers' Kosmos2Processor has no place for a template and takes one image a text. The folder has the code of
    one without these limits; trust_remote_code=True loads it.
    """
    generation = json.dumps(generation_config(vocabulary), indent=2)
    (folder / "generation_config.json").write_text(generation + "\n", encoding="utf-8")
    shutil.copyfile(CODE / "processing_kosmos_2.py", folder / "processing_kosmos_2.py")
    shutil.copyfile(CODE / "chat_template.jinja", folder / "chat_template.jinja")
    path = folder / "processor_config.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    content |= {
        "auto_map": {"AutoProcessor": "processing_kosmos_2.Kosmos2ChatProcessor"},
        "slots_per_image": config.image_tokens,
        "hidden_size": config.decoder_embed_dim,
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _require_image_tokens(folder: Path, config: KosmosConfig) -> None:
    """Raise UserError unless the written processor makes the model's number of slots for an image."""
    from transformers import Kosmos2Processor

    image = Image.new("RGB", (config.image_size, config.image_size))
    inputs = Kosmos2Processor.from_pretrained(str(folder))(text="", images=image)
    slots = sum(inputs["image_embeds_position_mask"])
    if slots != config.image_tokens:
        raise UserError(
            f"transformers' Kosmos2Processor makes {slots} tokens for an image, and the model has "
            f"{config.image_tokens} (--image-tokens): this version of transformers cannot express that."
        )


def _require_same_ids(vocabulary: Vocabulary, tokenizer: "XLMRobertaTokenizer") -> None:
    if len(vocabulary) != len(tokenizer):
        raise UserError(
            f"KOSMOS's vocabulary would have {len(vocabulary):,} tokens, transformers' tokenizer {len(tokenizer):,}."
        )
    for token in range(len(vocabulary)):
        hf_token = tokenizer.convert_ids_to_tokens(token)
        if vocabulary.symbol(token) != hf_token:
            raise UserError(
                f"The token {token} is {hf_token!r} in transformers' tokenizer and {vocabulary.symbol(token)!r} in "
                "KOSMOS's vocabulary: the two order their tokens differently."
            )
