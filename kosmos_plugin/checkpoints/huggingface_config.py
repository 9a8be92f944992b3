"""transformers' `Kosmos2Config` ⇄ the architecture kosmos_2; what one cannot say of the other is refused by name."""

import json
from pathlib import Path

import open_clip
from open_clip.transformer import QuickGELU

from kosmos_plugin.errors import UserError
from kosmos_plugin.models.config import ARCHITECTURES, KosmosConfig
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.vocabulary import Vocabulary

ARCHITECTURE = "kosmos_2"


def to_theirs(model: Kosmos, vocabulary: Vocabulary):
    """The `transformers.Kosmos2Config` of our model; UserError for what it cannot express."""
    from transformers import Kosmos2Config

    ours = model.config
    refuse("transformers' Kosmos2ForConditionalGeneration", _not_in_theirs(ours))
    visual = model.vision.encoder.visual
    block = visual.transformer.resblocks[0]
    config = Kosmos2Config(
        text_config={
            "vocab_size": len(vocabulary),
            "max_position_embeddings": ours.tokens_per_sample,
            "embed_dim": ours.decoder_embed_dim,
            "layers": ours.decoder_layers,
            "ffn_dim": ours.decoder_ffn_embed_dim,
            "attention_heads": ours.decoder_attention_heads,
            "activation_function": str(ours.activation_fn),
            "dropout": ours.dropout,
            "attention_dropout": ours.attention_dropout,
            "activation_dropout": ours.activation_dropout,
            "layer_norm_eps": ours.layernorm_eps,
            "tie_word_embeddings": not ours.untied_embeddings,
            "bos_token_id": vocabulary.bos,
            "pad_token_id": vocabulary.pad,
            "eos_token_id": vocabulary.eos,
        },
        vision_config={
            "hidden_size": model.vision.width,
            "intermediate_size": block.mlp.c_fc.out_features,
            "num_hidden_layers": len(visual.transformer.resblocks),
            "num_attention_heads": block.attn.num_heads,
            "image_size": ours.image_size,
            "patch_size": visual.conv1.kernel_size[0],
            "hidden_act": "quick_gelu" if isinstance(block.mlp.gelu, QuickGELU) else "gelu",
            "layer_norm_eps": block.ln_1.eps,
        },
        latent_query_num=ours.image_tokens,
        tie_word_embeddings=not ours.untied_embeddings,
    )
    config.architectures = ["Kosmos2ForConditionalGeneration"]
    return config


def _not_in_theirs(ours: KosmosConfig) -> list[str]:
    if ours.vision_encoder == "none":
        return ["a text-only model (--vision-encoder none)"]
    refused = []
    if ours.positions != "sinusoidal":
        refused.append(f"xPos (--positions {ours.positions})")
    if ours.resampler != "attentive":
        refused.append(f"the {ours.resampler} resampler (--resampler {ours.resampler})")
    if ours.vision_encoder != "clip":
        refused.append(f"a vision encoder other than CLIP (--vision-encoder {ours.vision_encoder})")
    return refused


def to_ours(theirs) -> tuple[KosmosConfig, dict | None]:
    """Our configuration of a `transformers.Kosmos2Config`, and the vision tower in open_clip's JSON format.

    The second is None if open_clip knows the tower by a name; else its file is to be named by `vision_model`.
    """
    text, vision = theirs.text_config, theirs.vision_config
    refuse("The architecture kosmos_2", _not_in_ours(theirs))
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
        untied_embeddings=not theirs.tie_word_embeddings,
        vision_model=name or "",
        vision_weights="none",
        trainable_vision_layers=1,
        image_tokens=theirs.latent_query_num,
        image_size=vision.image_size,
        tokens_per_sample=text.max_position_embeddings,
    )
    return config, None if name else tower


def _not_in_ours(theirs) -> list[str]:
    text, vision = theirs.text_config, theirs.vision_config
    expected = {
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
        "quantization_config": (getattr(theirs, "quantization_config", None), (None,)),
    }
    return [f"{name} {value}" for name, (value, known) in expected.items() if value not in known]


def refuse(format_name: str, features: list[str]) -> None:
    """UserError that names all `features`, if there are any."""
    if features:
        raise UserError(f"{format_name} cannot express {'; nor '.join(features)}.")


def _open_clip_json(vision) -> dict:
    """open_clip's configuration of the vision tower, with the smallest text tower, which is built and dropped."""
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


def _open_clip_name(tower: dict) -> str | None:
    """The model among open_clip's own whose vision tower is this one."""
    defaults = {"head_width": 64, "mlp_ratio": 4.0}
    for path in sorted(Path(open_clip.__file__).parent.glob("model_configs/*.json")):
        known = json.loads(path.read_text(encoding="utf-8"))
        same_activation = bool(known.get("quick_gelu")) == tower["quick_gelu"]
        if same_activation and {**defaults, **known["vision_cfg"]} == tower["vision_cfg"]:
            return path.stem
    return None
