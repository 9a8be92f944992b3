"""Weights to start the decoder from (`--decoder-weights`): a text-only model's, ours or TorchScale's under fairseq."""

from pathlib import Path

from kosmos_plugin.checkpoints.files import Tensors, read_fairseq, read_safetensors
from kosmos_plugin.errors import UserError
from kosmos_plugin.models.decoder import KosmosDecoder

PREFIX = "decoder."
XPOS_BUFFER = "self_attn.xpos.scale"


def load_decoder_weights(decoder: KosmosDecoder, path: str) -> None:
    """Fill `decoder` from a .pt or .safetensors file: the tensors named `decoder.…` of a model, or a bare decoder's.

    Every weight must be there, in its shape. Raises UserError, naming what does not fit.
    """
    tensors = _decoder_tensors(Path(path))
    expected = decoder.state_dict()
    # Fairseq keeps a buffer of sinusoids, which are computed here.
    tensors.pop("embed_positions._float_tensor", None)
    if "output_projection.weight" not in tensors and not decoder.args.no_output_layer:
        tensors["output_projection.weight"] = tensors.get("embed_tokens.weight")
    _require_the_same_positions(decoder, tensors, path)
    missing = sorted(set(expected) - set(tensors))
    unexpected = sorted(set(tensors) - set(expected))
    if missing or unexpected:
        raise UserError(
            f"--decoder-weights {path}: it is not a decoder like this one, TorchScale's with sub-LayerNorm."
            + _listing("It lacks", missing)
            + _listing("It has besides", unexpected)
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"--decoder-weights {path}: {PREFIX}{name} is {tuple(tensor.shape)} there and "
                f"{tuple(expected[name].shape)} here."
            )
    if decoder.args.share_decoder_input_output_embed and not tensors["output_projection.weight"].equal(
        tensors["embed_tokens.weight"]
    ):
        raise UserError(
            f"--decoder-weights {path} has an output projection of its own: give --untied-embeddings to keep it."
        )
    decoder.load_state_dict(tensors)


def _decoder_tensors(path: Path) -> Tensors:
    tensors = read_safetensors(path)[0] if path.suffix == ".safetensors" else read_fairseq(path)["model"]
    if any(name.startswith(PREFIX) for name in tensors):
        return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    return dict(tensors)


def _require_the_same_positions(decoder: KosmosDecoder, tensors: Tensors, path: str) -> None:
    """Weights trained with other positions would fit and mean nothing."""
    has_xpos = any(name.endswith(XPOS_BUFFER) for name in tensors)
    if has_xpos != decoder.args.xpos_rel_pos:
        raise UserError(
            f"--decoder-weights {path} was trained {'with' if has_xpos else 'without'} xPos, and this decoder "
            f"{'has none' if has_xpos else 'has it'}: see --positions."
        )
    if any(name.startswith("embed_positions.") for name in tensors):
        raise UserError(f"--decoder-weights {path} has learned positions, which this decoder cannot hold.")


def _listing(label: str, names: list[str]) -> str:
    if not names:
        return ""
    return f" {label} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}."
