"""transformers' `Kosmos2Config` (hf) ⇄ the architecture kosmos_2. What one cannot express of the other is an error."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
from open_clip.transformer import QuickGELU

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.config import ARCHITECTURES, KosmosConfig
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import Kosmos2Config

ARCHITECTURE = "kosmos_2"


def to_hf(model: Kosmos, vocabulary: Vocabulary) -> "Kosmos2Config":
    """The `transformers.Kosmos2Config` of our model. Raises UserError for what it cannot express."""
    from transformers import Kosmos2Config

    config = model.config
    refuse("transformers' Kosmos2ForConditionalGeneration", _unsupported_by_hf(config))
    assert model.vision is not None
    visual: Any = model.vision.encoder.visual  # open_clip's VisionTransformer
    block = visual.transformer.resblocks[0]
    hf_config = Kosmos2Config(
        text_config={
            "vocab_size": len(vocabulary),
            "max_position_embeddings": config.tokens_per_sample,
            "embed_dim": config.decoder_embed_dim,
            "layers": config.decoder_layers,
            "ffn_dim": config.decoder_ffn_embed_dim,
            "attention_heads": config.decoder_attention_heads,
            "activation_function": config.activation_fn,
            "dropout": config.dropout,
            "attention_dropout": config.attention_dropout,
            "activation_dropout": config.activation_dropout,
            "layer_norm_eps": config.layernorm_eps,
            "tie_word_embeddings": not config.untied_embeddings,
            "bos_token_id": vocabulary.bos,
            "pad_token_id": vocabulary.pad,
            "eos_token_id": vocabulary.eos,
        },
        vision_config={
            "hidden_size": model.vision.width,
            "intermediate_size": block.mlp.c_fc.out_features,
            "num_hidden_layers": len(visual.transformer.resblocks),
            "num_attention_heads": block.attn.num_heads,
            "image_size": config.image_size,
            "patch_size": visual.conv1.kernel_size[0],
            "hidden_act": "quick_gelu" if isinstance(block.mlp.gelu, QuickGELU) else "gelu",
            "layer_norm_eps": block.ln_1.eps,
        },
        latent_query_num=config.image_tokens,
        tie_word_embeddings=not config.untied_embeddings,
    )
    hf_config.architectures = ["Kosmos2ForConditionalGeneration"]
    return hf_config


def from_hf(hf_config: "Kosmos2Config") -> tuple[KosmosConfig, dict[str, Any] | None]:
    """Our configuration of a `transformers.Kosmos2Config`. Raises UserError for what ours cannot express.

    Returns:
        The configuration, and the vision tower in open_clip's JSON format: `vision_model` must be set to a file of it.
        None if open_clip itself has a model with this tower, which `vision_model` then names.
    """
    text: Any = hf_config.text_config
    vision: Any = hf_config.vision_config
    refuse("The architecture kosmos_2", _unsupported_by_ours(hf_config))
    tower = _open_clip_json(vision)
    name = _open_clip_name(tower)
    config = ARCHITECTURES[ARCHITECTURE](
        decoder_layers=text.layers,
        decoder_embed_dim=text.embed_dim,
        decoder_ffn_embed_dim=text.ffn_dim,
        decoder_attention_heads=text.attention_heads,
        activation_fn={"silu": "swish"}.get(text.activation_function, text.activation_function),
        dropout=float(text.dropout),
        attention_dropout=float(text.attention_dropout),
        activation_dropout=float(text.activation_dropout),
        layernorm_eps=text.layer_norm_eps,
        untied_embeddings=not hf_config.tie_word_embeddings,
        vision_model=name or "",
        vision_weights="none",
        trainable_vision_layers=1,
        image_tokens=hf_config.latent_query_num,
        image_size=vision.image_size,
        tokens_per_sample=text.max_position_embeddings,
    )
    return config, None if name else tower


def refuse(format_name: str, features: list[str]) -> None:
    """Raise UserError that names all `features`, if there are any."""
    if features:
        raise UserError(f"{format_name} cannot express {'; nor '.join(features)}.")


def _unsupported_by_hf(config: KosmosConfig) -> list[str]:
    if config.vision_encoder == "none":
        return ["a text-only model (--vision-encoder none)"]
    unsupported = []
    if config.positions != "sinusoidal":
        unsupported.append(f"xPos (--positions {config.positions})")
    if config.resampler != "attentive":
        unsupported.append(f"the {config.resampler} resampler (--resampler {config.resampler})")
    if config.vision_encoder != "clip":
        unsupported.append(f"a vision encoder other than CLIP (--vision-encoder {config.vision_encoder})")
    return unsupported


def _unsupported_by_ours(hf_config: "Kosmos2Config") -> list[str]:
    text: Any = hf_config.text_config
    vision: Any = hf_config.vision_config
    supported = {
        "text_config.add_cross_attention": (text.add_cross_attention, (False,)),
        "text_config.scale_embedding": (text.scale_embedding, (True,)),
        "text_config.layerdrop": (text.layerdrop, (0,)),
        "text_config.activation_function": (text.activation_function, ("gelu", "relu", "swish", "silu")),
        "text_config.bos_token_id": (text.bos_token_id, (0,)),
        "text_config.pad_token_id": (text.pad_token_id, (1,)),
        "text_config.eos_token_id": (text.eos_token_id, (2,)),
        "vision_config.hidden_act": (vision.hidden_act, ("quick_gelu", "gelu")),
        "vision_config.layer_norm_eps": (vision.layer_norm_eps, (1e-5,)),
        "vision_config.num_channels": (vision.num_channels, (3,)),
        "quantization_config": (getattr(hf_config, "quantization_config", None), (None,)),
    }
    return [f"{name} {value}" for name, (value, values) in supported.items() if value not in values]


def _open_clip_json(vision: Any) -> dict[str, Any]:
    """open_clip's configuration of an hf vision_config, with the smallest text tower, which is built and dropped."""
    return {
        "embed_dim": 8,
        "quick_gelu": vision.hidden_act == "quick_gelu",
        "vision_cfg": {
            "image_size": vision.image_size,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "patch_size": vision.patch_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
        },
        "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
    }


def _open_clip_name(tower: dict[str, Any]) -> str | None:
    """open_clip's name for a model with this vision tower, if it has one."""
    defaults = {"head_width": 64, "mlp_ratio": 4.0}
    for path in sorted(Path(open_clip.__file__).parent.glob("model_configs/*.json")):
        known = json.loads(path.read_text(encoding="utf-8"))
        same_activation = bool(known.get("quick_gelu")) == tower["quick_gelu"]
        if same_activation and {**defaults, **known["vision_cfg"]} == tower["vision_cfg"]:
            return path.stem
    return None
