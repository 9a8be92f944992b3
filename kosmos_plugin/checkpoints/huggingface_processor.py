"""The vocabulary and the images' preprocessing as transformers' tokenizer and image processor, and back.

The tokenizer is XLM-RoBERTa's with KOSMOS-2's tags and places in an image, the image processor CLIP's.
"""

import json
import shutil
from pathlib import Path

import open_clip
import sentencepiece

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.models.vision import VisionEncoder
from kosmos_plugin.vocabulary import FURTHER_TOKENS_FILE, MODEL_FILE, SPECIAL_TOKENS, Vocabulary, write_dictionary

IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
THEIR_MODEL_FILE = "sentencepiece.bpe.model"


def write_vocabulary(source: Path, size: int, folder: Path) -> Vocabulary:
    """Write the vocabulary of `size` words of a Hugging Face folder as a vocabulary folder of ours.

    Every id must stand for the same in both; UserError if not, or if a file of the tokenizer is missing or broken.
    """
    from transformers import XLMRobertaTokenizer

    if not (source / THEIR_MODEL_FILE).is_file():
        raise UserError(f"{source} has no {THEIR_MODEL_FILE}, the tokenizer's SentencePiece model.")
    try:
        sentencepiece.SentencePieceProcessor(model_file=str(source / THEIR_MODEL_FILE))
        theirs = XLMRobertaTokenizer.from_pretrained(str(source))
    except Exception as error:  # transformers raises anything on tokenizer files that are none
        raise UserError(f"The tokenizer of {source} cannot be read: {error}") from None
    folder.mkdir()
    shutil.copyfile(source / THEIR_MODEL_FILE, folder / MODEL_FILE)
    write_dictionary(folder)
    base = len(Vocabulary.load(folder))
    if len(theirs) < size or base > size:
        raise UserError(f"The tokenizer of {source} does not have the model's {size:,} words.")
    further = theirs.convert_ids_to_tokens(list(range(base, size)))
    if further:
        (folder / FURTHER_TOKENS_FILE).write_text("".join(f"{token}\n" for token in further), encoding="utf-8")
    ours = Vocabulary.load(folder)
    _require_same_ids(ours, theirs)
    return ours


def image_fit(source: Path) -> str:
    """How the image processor of a Hugging Face folder makes an image square; KOSMOS-2's way if it has none."""
    from transformers import CLIPImageProcessor

    if not any((source / name).is_file() for name in IMAGE_PROCESSOR_FILES):
        return "stretch"
    try:
        images = CLIPImageProcessor.from_pretrained(str(source))
    except Exception as error:  # transformers raises anything on a file that is none
        raise UserError(f"The image processor of {source} cannot be read: {error}") from None
    ours = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    if (tuple(images.image_mean), tuple(images.image_std)) != ours:
        raise UserError(f"{source} normalizes images by another mean or deviation than CLIP's, which is not supported.")
    return "crop" if images.size.shortest_edge else "stretch"


def write_processor(ours: Vocabulary, encoder: VisionEncoder, config: KosmosConfig, folder: Path) -> None:
    """Write tokenizer and image processor into `folder`, as one `Kosmos2Processor` if it fits.

    That brings KOSMOS-2's 1,030 tokens for places in an image; a vocabulary without them gets the tokenizer alone.
    """
    from transformers import AddedToken, CLIPImageProcessor, Kosmos2Processor, XLMRobertaTokenizer

    (folder / THEIR_MODEL_FILE).write_bytes(ours.processor.serialized_model_proto())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLMRobertaTokenizer"}))
    theirs = XLMRobertaTokenizer.from_pretrained(str(folder))
    square = {"height": config.image_size, "width": config.image_size}
    images = CLIPImageProcessor(
        size=square if config.image_fit == "stretch" else {"shortest_edge": config.image_size},
        crop_size=square,
        image_mean=list(encoder.mean),
        image_std=list(encoder.std),
    )
    added = [ours.symbol(token) for token in range(ours.image_slot + 1, len(ours))]
    if len(added) == len(SPECIAL_TOKENS) - 1:
        theirs.add_tokens([AddedToken(token, lstrip=True, rstrip=False, normalized=False) for token in added])
        images.save_pretrained(str(folder))
        theirs.save_pretrained(str(folder))
    else:
        Kosmos2Processor(images, theirs).save_pretrained(str(folder))
    _require_same_ids(ours, theirs)


def _require_same_ids(ours: Vocabulary, theirs) -> None:
    if len(ours) != len(theirs):
        raise UserError(f"KOSMOS's vocabulary would have {len(ours):,} words, transformers' tokenizer {len(theirs):,}.")
    for token in range(len(ours)):
        if ours.symbol(token) != theirs.convert_ids_to_tokens(token):
            raise UserError(
                f"The token {token} is {theirs.convert_ids_to_tokens(token)!r} in transformers' tokenizer and "
                f"{ours.symbol(token)!r} in KOSMOS's vocabulary: the two order their tokens differently."
            )
