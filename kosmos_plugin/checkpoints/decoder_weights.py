"""Weights to start the decoder from (`--decoder-weights`): a text-only model's, ours or TorchScale's under fairseq."""

import json
from pathlib import Path
from typing import Any

import torch

from kosmos_plugin.checkpoints.fairseq_checkpoint import read_checkpoint
from kosmos_plugin.checkpoints.safetensors_file import METADATA_KEY
from kosmos_plugin.errors import UserError
from kosmos_plugin.models.decoder import KosmosDecoder
from kosmos_plugin.tensor_files import Tensors, read_safetensors

PREFIX = "decoder."
XPOS_BUFFER = "self_attn.xpos.scale"
SINUSOIDS_BUFFER = "embed_positions._float_tensor"
# Options that change what a decoder computes, but neither the names nor the shapes of its weights.
UNSEEN_OPTIONS = ("decoder_attention_heads", "activation_fn", "layernorm_eps", "no_scale_embedding", "xpos_scale_base")


def load_decoder_weights(decoder: KosmosDecoder, path: str) -> None:
    """Fill `decoder` from the weights of a trained decoder.

    Args:
        decoder: The decoder to fill.
        path: A .pt or .safetensors file of a model, whose tensors named `decoder.…` are taken, or of a bare decoder.

    Raises:
        UserError: The file is not a checkpoint, or its decoder differs: a weight's name or shape, or an option.
    """
    tensors, options = _read(Path(path))
    expected = decoder.state_dict()
    _require_same_options(decoder, tensors, options, path)
    # fairseq may save a buffer of sinusoids; here they are computed.
    tensors.pop(SINUSOIDS_BUFFER, None)
    if "output_projection.weight" not in tensors and "embed_tokens.weight" in tensors:
        tensors["output_projection.weight"] = tensors["embed_tokens.weight"]
    missing = sorted(set(expected) - set(tensors))
    unexpected = sorted(set(tensors) - set(expected))
    if missing or unexpected:
        raise UserError(
            f"--decoder-weights {path} is not a decoder like this one, TorchScale's with sub-LayerNorm."
            + _listing("Missing:", missing)
            + _listing("Unexpected:", unexpected)
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"--decoder-weights {path}: {PREFIX}{name} has the shape {tuple(tensor.shape)}, and this decoder's "
                f"has {tuple(expected[name].shape)}."
            )
    if decoder.args.share_decoder_input_output_embed and not tensors["output_projection.weight"].equal(
        tensors["embed_tokens.weight"]
    ):
        raise UserError(
            f"--decoder-weights {path} has a separate output projection: give --untied-embeddings to keep it."
        )
    decoder.load_state_dict(tensors)


def _read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The decoder's tensors under a bare decoder's names, and the model's options, empty if the file has none."""
    try:
        if path.suffix == ".safetensors":
            tensors, metadata = read_safetensors(path)
            cfg = json.loads(metadata.get(METADATA_KEY, "{}")).get("cfg")
        else:
            state = read_checkpoint(path)
            tensors, cfg = state["model"], state.get("cfg")
    except UserError as error:
        raise UserError(f"--decoder-weights {error}") from None
    tensors = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    if any(name.startswith(PREFIX) for name in tensors):
        tensors = {name.removeprefix(PREFIX): x for name, x in tensors.items() if name.startswith(PREFIX)}
    options = (cfg or {}).get("model")
    return tensors, options if isinstance(options, dict) else {}


def _require_same_options(decoder: KosmosDecoder, tensors: Tensors, options: dict[str, Any], path: str) -> None:
    """Raise UserError for weights that would load but compute something else, e.g. with another number of heads."""
    if "embed_positions.weight" in tensors:
        raise UserError(f"--decoder-weights {path} has learned positions, which this decoder does not support.")
    has_xpos = any(name.endswith(XPOS_BUFFER) for name in tensors)
    _require_same("xPos", has_xpos, decoder.args.xpos_rel_pos, path)
    has_sinusoids = _has_sinusoids(tensors, options)
    if has_sinusoids is not None:
        _require_same("sinusoidal positions", has_sinusoids, decoder.embed_positions is not None, path)
    for option in UNSEEN_OPTIONS:
        here = getattr(decoder.args, option)
        if options.get(option, here) != here:
            raise UserError(
                f"--decoder-weights {path} was trained with {option} {options[option]}, and this decoder has {here}."
            )


def _require_same(feature: str, there: bool, here: bool, path: str) -> None:
    if there != here:
        raise UserError(
            f"--decoder-weights {path} was trained {'with' if there else 'without'} {feature}, unlike this decoder: "
            "see --positions."
        )


def _has_sinusoids(tensors: Tensors, options: dict[str, Any]) -> bool | None:
    """Whether sinusoidal positions are added to the embeddings; None if the file does not say."""
    if "positions" in options:  # ours
        return options["positions"] != "xpos"
    if "no_token_positional_embeddings" in options:  # TorchScale's language model under fairseq
        return not options["no_token_positional_embeddings"]
    return True if SINUSOIDS_BUFFER in tensors else None


def _listing(label: str, names: list[str]) -> str:
    if not names:
        return ""
    return f" {label} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}."
