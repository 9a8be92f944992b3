"""The architectures (`--arch`): presets of one set of options. kosmos_1 is the paper's Table 17."""

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

from kosmos_plugin.options import option


@dataclass
class KosmosConfig:
    """kosmos_1: the paper's model."""

    decoder_layers: int = option(24, "decoder layers")
    decoder_embed_dim: int = option(2048, "width of the decoder")
    decoder_ffn_embed_dim: int = option(8192, "inner width of the feed-forward networks")
    decoder_attention_heads: int = option(32, "attention heads")
    activation_fn: str = option("gelu", "activation function", ("gelu", "relu", "swish"))
    dropout: float = option(0.1, "dropout on embeddings and sublayer outputs")
    attention_dropout: float = option(0.1, "dropout on attention weights")
    activation_dropout: float = option(0.0, "dropout inside the feed-forward networks")
    layernorm_eps: float = option(1e-5, "epsilon of every LayerNorm of the decoder")
    positions: str = option(
        "xpos",
        "xpos (the paper), sinusoidal (added to the embeddings, as in KOSMOS-2) or both",
        ("xpos", "sinusoidal", "both"),
    )
    untied_embeddings: bool = option(
        False, "give the output projection its own matrix (the paper ties it to the embedding table)"
    )
    initialization: str = option(
        "xavier",
        "Magneto's initialization: its gain applied to Xavier's (xavier, the paper) or to torch's default (torchscale)",
        ("xavier", "torchscale"),
    )
    attention: str = option(
        "auto",
        "how attention is computed, with the same result: varlen (one call of FlashAttention for documents of any "
        "lengths), documents (each in a separate row) or masked (packed rows with a T×T mask); auto: varlen on GPUs "
        "that can, otherwise documents",
        ("auto", "varlen", "documents", "masked"),
    )
    checkpoint_activations: str = option(
        "none",
        "decoder activations that the backward pass recomputes: none, selective (all but matrix products and "
        "attention) or full (all)",
        ("none", "selective", "full"),
    )
    bf16_autocast: bool = option(
        False,
        "compute in bfloat16 over float32 weights, whose gradients accumulate in float32; unlike --bf16, where they "
        "accumulate in bfloat16 and checkpoints hold rounded weights",
    )
    compile: bool = option(False, "torch.compile each layer of the decoder and of the vision encoder")
    decoder_weights: str | None = option(
        None, "start the decoder from this checkpoint: a kosmos_1_lm, or TorchScale's language model"
    )
    vision_encoder: str = option(
        "clip", "kind of vision encoder: clip (open_clip's ViTs), efficientnet_lite, or none (text only)"
    )
    vision_model: str = option(
        "ViT-L-14", "clip: an open_clip model or a JSON file in its format; efficientnet_lite: lite0, lite1, …"
    )
    vision_weights: str = option(
        "openai",
        "clip: openai, another open_clip tag, or a .pt or .safetensors file; efficientnet_lite: imagenet; none: random",
    )
    trainable_vision_layers: int = option(1, "train this many of the vision encoder's last layers (the paper: 1)")
    frozen_vision_dtype: str = option(
        "model", "precision of the frozen layers: the model's own, or bfloat16", ("model", "bfloat16")
    )
    cache_vision_features: bool = option(
        False, "keep the frozen layers' features of every image in memory (small data seen many times)"
    )
    resampler: str = option(
        "attentive",
        "attentive (one attention layer, as in KOSMOS-2), perceiver (Flamingo's) or linear (a linear map of each "
        "feature)",
        ("attentive", "perceiver", "linear"),
    )
    resampler_layers: int = option(6, "layers of the perceiver resampler (Flamingo: 6)")
    lora_rank: int = option(
        0,
        "train an adapter of this rank (LoRA) to the frozen model of --lora-base, and save only the adapter; "
        "0: train the model itself",
    )
    lora_base: str | None = option(None, "the trained model to adapt, a checkpoint (.pt, .safetensors)")
    lora_alpha: float | None = option(None, "the adapter is scaled by this over its rank (default: twice the rank)")
    lora_dropout: float = option(0.0, "dropout on the adapter's input")
    lora_targets: str = option(
        "q_proj,k_proj,v_proj,out_proj,fc1,fc2,dense",
        "linear layers of the decoder and the resampler to adapt, by the last part of their names",
    )
    # INPUT_FORMAT: under fairseq these are options of the task, and the model takes their values.
    image_tokens: int = 64  # K, embeddings per image in a sequence
    image_size: int = 224  # S, height and width in pixels
    image_fit: str = "crop"  # one of kosmos_plugin.images.FITS
    tokens_per_sample: int = 2048  # the longest sequence, in positions


INPUT_FORMAT = ("image_tokens", "image_size", "image_fit", "tokens_per_sample")


Preset = TypeVar("Preset", bound=KosmosConfig)


def preset(cls: type[Preset]) -> type[Preset]:
    """Turn a subclass of KosmosConfig that assigns other defaults into a dataclass.

    The subclass writes only `name = value`: types, choices and help texts are KosmosConfig's.
    """
    for field in dataclasses.fields(KosmosConfig):
        if field.name in vars(cls):
            default = vars(cls)[field.name]
            setattr(cls, field.name, dataclasses.field(default=default, metadata=field.metadata))
            cls.__annotations__[field.name] = field.type
    return dataclass(cls)


@preset
class KosmosLmConfig(KosmosConfig):
    """kosmos_1_lm: the paper's text-only baseline (§4.9), kosmos_1 without vision."""

    vision_encoder = "none"


@preset
class KosmosBaseConfig(KosmosConfig):
    """kosmos_base: the size of GPT-1 and BERT-base."""

    decoder_layers = 12
    decoder_embed_dim = 768
    decoder_ffn_embed_dim = 3072
    decoder_attention_heads = 12
    vision_model = "ViT-B-16"


@preset
class KosmosTinyConfig(KosmosConfig):
    """kosmos_tiny: learns from real images in minutes on two CPU cores."""

    decoder_layers = 3
    decoder_embed_dim = 192
    decoder_ffn_embed_dim = 768
    decoder_attention_heads = 4
    dropout = 0.0
    attention_dropout = 0.0
    vision_encoder = "efficientnet_lite"
    vision_model = "lite0"
    vision_weights = "imagenet"


@preset
class Kosmos2Config(KosmosConfig):
    """kosmos_2: the numerics of the public KOSMOS-2, whose vocabulary has 65,037 tokens (`kosmos-convert`)."""

    positions = "sinusoidal"
    vision_model = "ViT-L-14-quickgelu"


ARCHITECTURES: dict[str, type[KosmosConfig]] = {
    "kosmos_1": KosmosConfig,
    "kosmos_1_lm": KosmosLmConfig,
    "kosmos_base": KosmosBaseConfig,
    "kosmos_tiny": KosmosTinyConfig,
    "kosmos_2": Kosmos2Config,
}
