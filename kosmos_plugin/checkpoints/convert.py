"""Conversion of a checkpoint to another format: chooses reader and writer."""

from pathlib import Path
from types import ModuleType

from kosmos_plugin.checkpoints.fairseq_checkpoint import read_checkpoint, standing_alone, training_state, write_fairseq
from kosmos_plugin.checkpoints.safetensors_file import write_safetensors
from kosmos_plugin.errors import UserError, missing_package

FORMATS = ("fairseq", "huggingface", "safetensors")


def convert(source: Path, target: Path, to: str, data: str | None = None, vocabulary: str | None = None) -> None:
    """Write `source` as `target` in another format.

    Args:
        source: A fairseq checkpoint (.pt), a .safetensors file that this function wrote, or a Hugging Face folder.
        target: The new file (fairseq, safetensors) or folder (huggingface, or from a Hugging Face folder).
        to: One of FORMATS.
        data: The data YAML of the source's training, if it carries no vocabulary and the YAML moved.
        vocabulary: The source's vocabulary folder, if it carries none and the folder moved.

    Raises:
        UserError: The source cannot be read or converted, or the target exists or cannot be written. Nothing is left
            behind then.
    """
    if to not in FORMATS:
        raise UserError(f"The format {to!r} is unknown; known are {', '.join(FORMATS)}.")
    if not source.exists():
        raise UserError(f"{source} does not exist.")
    if to == "huggingface":
        _huggingface().export_folder(source, target, data, vocabulary)
    elif source.is_dir() and to == "fairseq":
        _huggingface().import_folder(source, target)
    elif source.is_dir():
        raise UserError(f"{source} is a folder, which only converts to fairseq; name the checkpoint in it.")
    elif to == "safetensors":
        write_safetensors(standing_alone(source, read_checkpoint(source), data, vocabulary), target)
    else:
        write_fairseq(training_state(standing_alone(source, read_checkpoint(source), data, vocabulary)), target)


def _huggingface() -> ModuleType:
    try:
        import google.protobuf  # noqa: F401 - transformers reads a SentencePiece model with it
        import transformers  # noqa: F401

        from kosmos_plugin.checkpoints import huggingface
    except ModuleNotFoundError as error:
        raise missing_package("Conversion from and to Hugging Face", error, "huggingface") from None
    return huggingface
