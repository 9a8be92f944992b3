"""Our configuration ⇄ the files config.json, generation_config.json and preprocessor_config.json of an exported folder.

config.json also records, under `kosmos_plugin`, our own configuration with the options of training, for the way back.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.vocabulary import Vocabulary

MODEL_TYPE = "kosmos"
RECORD = "kosmos_plugin"
MODEL_CLASS = "KosmosForConditionalGeneration"
TOWER_FILE = "clip.json"
# Of the record, what means nothing elsewhere: paths of the training's machine, and how its images were cached.
_LEFT_OUT = ("decoder_weights", "cache_vision_features", "compile")


def model_config(model: Kosmos, vocabulary: Vocabulary, architecture: str, dtype: torch.dtype) -> dict[str, Any]:
    """The content of config.json.

    Args:
        model: The model; its weights may be on the meta device.
        vocabulary: Its vocabulary.
        architecture: The name of its preset.
        dtype: Of its weights.

    Raises:
        UserError: The folder's code has no such vision encoder.
    """
    config = model.config
    auto_map = {
        "AutoConfig": "configuration_kosmos.KosmosConfig",
        "AutoModel": "modeling_kosmos.KosmosModel",
        "AutoModelForCausalLM": f"modeling_kosmos.{MODEL_CLASS}",
        "AutoTokenizer": [None, "tokenization_kosmos.KosmosTokenizer"],
    }
    if model.vision is not None:
        auto_map |= {
            "AutoModelForImageTextToText": f"modeling_kosmos.{MODEL_CLASS}",
            "AutoModelForMultimodalLM": f"modeling_kosmos.{MODEL_CLASS}",  # `transformers serve` asks for it
            "AutoProcessor": "processing_kosmos.KosmosProcessor",
            "AutoImageProcessor": "image_processing_kosmos.KosmosImageProcessor",
        }
    return {
        "model_type": MODEL_TYPE,
        "architectures": [MODEL_CLASS],
        "auto_map": auto_map,
        "dtype": str(dtype).removeprefix("torch."),
        **_architecture(model, vocabulary),
        RECORD: {"_name": architecture, **_record(config)},
    }


def _architecture(model: Kosmos, vocabulary: Vocabulary) -> dict[str, Any]:
    """What the folder's KosmosConfig takes."""
    config = model.config
    return {
        "vocab_size": len(vocabulary),
        "hidden_size": config.decoder_embed_dim,
        "intermediate_size": config.decoder_ffn_embed_dim,
        "num_hidden_layers": config.decoder_layers,
        "num_attention_heads": config.decoder_attention_heads,
        "hidden_act": config.activation_fn,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "layer_norm_eps": config.layernorm_eps,
        "max_position_embeddings": config.tokens_per_sample,
        "positions": config.positions,
        "xpos_scale_base": model.decoder.args.xpos_scale_base,
        "tie_word_embeddings": not config.untied_embeddings,
        "num_image_tokens": config.image_tokens,
        "image_size": config.image_size,
        "resampler": config.resampler,
        "resampler_layers": config.resampler_layers,
        "vision_config": None if model.vision is None else _vision_config(model.vision.encoder),
        "bos_token_id": vocabulary.bos,
        "pad_token_id": vocabulary.pad,
        "eos_token_id": vocabulary.eos,
        "image_token_id": vocabulary.image_slot,
        "boi_token_id": vocabulary.image_begin,
        "eoi_token_id": vocabulary.image_end,
    }


def generation_config(vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of generation_config.json: where generation ends, and what it never gives, as in `generation/`."""
    return {
        "bos_token_id": vocabulary.bos,
        "pad_token_id": vocabulary.pad,
        "eos_token_id": [vocabulary.eos, vocabulary.image_begin],
        "suppress_tokens": [vocabulary.pad],
    }


def image_processor_config(model: Kosmos) -> dict[str, Any]:
    """The content of preprocessor_config.json."""
    assert model.vision is not None
    return {
        "image_processor_type": "KosmosImageProcessor",
        "processor_class": "KosmosProcessor",
        "auto_map": {
            "AutoImageProcessor": "image_processing_kosmos.KosmosImageProcessor",
            "AutoProcessor": "processing_kosmos.KosmosProcessor",
        },
        "size": model.config.image_size,
        "fit": model.config.image_fit,
        "image_mean": list(model.vision.encoder.mean),
        "image_std": list(model.vision.encoder.std),
    }


def processor_config(model: Kosmos) -> dict[str, Any]:
    """The content of processor_config.json."""
    return {
        "processor_class": "KosmosProcessor",
        "auto_map": {"AutoProcessor": "processing_kosmos.KosmosProcessor"},
        "num_image_tokens": model.config.image_tokens,
    }


def require_same_architecture(hf_config: dict[str, Any], model: Kosmos, vocabulary: Vocabulary, source: Path) -> None:
    """Raise UserError if config.json, which may have been edited, contradicts its record of our configuration."""
    for name, value in _architecture(model, vocabulary).items():
        if hf_config.get(name, value) != value:
            raise UserError(
                f"{source} has {name} {hf_config[name]!r}, and its record of the training ({RECORD}) has {value!r}."
            )


def open_clip_tower(hf_config: dict[str, Any]) -> dict[str, Any]:
    """open_clip's configuration of the vision transformer, with a small text tower, which is dropped."""
    vision = hf_config["vision_config"]
    tower: dict[str, Any] = {
        "image_size": hf_config["image_size"],
        "layers": vision["num_hidden_layers"],
        "width": vision["hidden_size"],
        "patch_size": vision["patch_size"],
        "head_width": vision["hidden_size"] // vision["num_attention_heads"],
        "mlp_ratio": vision["intermediate_size"] / vision["hidden_size"],
        "no_ln_pre": not vision["pre_layer_norm"],
        "ls_init_value": 1e-5 if vision["layer_scale"] else None,
        "act_kwargs": {"approximate": "tanh"} if vision["hidden_act"] == "gelu_tanh" else None,
        "norm_kwargs": {"eps": vision["layer_norm_eps"]},
    }
    return {
        "embed_dim": 8,
        "quick_gelu": vision["hidden_act"] == "quick_gelu",
        "vision_cfg": tower,
        "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
    }


def _record(config: KosmosConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    for name in _LEFT_OUT:
        del values[name]
    if config.vision_model.endswith(".json"):
        values["vision_model"] = TOWER_FILE
    if "/" in config.vision_weights or "\\" in config.vision_weights:  # a file of the training's machine
        values["vision_weights"] = "none"
    return values


def _vision_config(encoder: Any) -> dict[str, Any]:
    if hasattr(encoder, "visual"):
        return _clip_config(encoder.visual)
    if hasattr(encoder, "net"):
        return _efficientnet_config(encoder.net)
    raise UserError(f"--to transformers cannot express the vision encoder {type(encoder).__name__}.")


def _clip_config(visual: Any) -> dict[str, Any]:
    """Of open_clip's VisionTransformer."""
    block = visual.transformer.resblocks[0]
    activation = block.mlp.gelu
    kind = "quick_gelu" if type(activation).__name__ == "QuickGELU" else "gelu"
    if getattr(activation, "approximate", "none") == "tanh":
        kind = "gelu_tanh"
    return {
        "model_type": "clip",
        "hidden_size": visual.positional_embedding.shape[1],
        "intermediate_size": block.mlp.c_fc.out_features,
        "num_hidden_layers": len(visual.transformer.resblocks),
        "num_attention_heads": block.attn.num_heads,
        "patch_size": visual.conv1.kernel_size[0],
        "hidden_act": kind,
        "layer_norm_eps": block.ln_1.eps,
        "pre_layer_norm": not isinstance(visual.ln_pre, nn.Identity),
        "layer_scale": not isinstance(block.ls_1, nn.Identity),
    }


def _efficientnet_config(net: Any) -> dict[str, Any]:
    """Of efficientnet_lite_pytorch's EfficientNet, layer by layer: its padding depends on the size it was made for."""
    return {
        "model_type": "efficientnet_lite",
        "batch_norm_eps": net._bn0.eps,
        "stem": _convolution(net._conv_stem),
        "blocks": [
            {
                "expand": _convolution(block._expand_conv) if block._block_args.expand_ratio != 1 else None,
                "depthwise": _convolution(block._depthwise_conv),
                "project": _convolution(block._project_conv),
                "residual": _has_residual(block._block_args),
            }
            for block in net._blocks
        ],
        "head": _convolution(net._conv_head),
    }


def _has_residual(args: Any) -> bool:
    """The package's own condition; the first block of a stage has a stride of [1], which it does not take for 1."""
    return bool(args.id_skip and args.stride == 1 and args.input_filters == args.output_filters)


def _convolution(layer: Any) -> dict[str, Any]:
    return {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": layer.kernel_size[0],
        "stride": layer.stride[0],
        "groups": layer.groups,
        "padding": list(getattr(layer.static_padding, "padding", (0, 0, 0, 0))),
    }
