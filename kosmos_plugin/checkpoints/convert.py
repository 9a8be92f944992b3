"""Which conversion a source and a target format ask for."""

from pathlib import Path

from kosmos_plugin.checkpoints.fairseq_checkpoint import read_checkpoint, training_state, write_fairseq
from kosmos_plugin.checkpoints.safetensors_file import write_safetensors
from kosmos_plugin.errors import UserError

FORMATS = ("fairseq", "huggingface", "safetensors")


def convert(source: Path, target: Path, to: str, data: str | None = None, vocabulary: str | None = None) -> None:
    """Write `source` as `target` in the format `to`; UserError, and no target, if that cannot be done whole.

    `source`: a fairseq checkpoint (.pt), a .safetensors file of this function, or a Hugging Face folder. `data` and
    `vocabulary` say where a checkpoint's vocabulary is now, for `huggingface`.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist.")
    if to == "huggingface":
        _huggingface().export_folder(source, target, data, vocabulary)
    elif source.is_dir() and to == "fairseq":
        _huggingface().import_folder(source, target)
    elif source.is_dir():
        raise UserError(f"{source} is a folder, which converts to fairseq alone; name the checkpoint in it.")
    elif to == "safetensors":
        write_safetensors(read_checkpoint(source), target)
    else:
        write_fairseq(training_state(read_checkpoint(source)), target)


def _huggingface():
    try:
        import google.protobuf  # noqa: F401 - by which transformers reads a SentencePiece model
        import transformers  # noqa: F401

        from kosmos_plugin.checkpoints import huggingface
    except ModuleNotFoundError as error:
        raise UserError(
            f"Conversion from and to Hugging Face needs {error.name}: pip install kosmos-plugin[huggingface]"
        ) from None
    return huggingface
