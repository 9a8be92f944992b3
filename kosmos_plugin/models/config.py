"""The architectures (`--arch`) as dataclasses: presets of one set of options; kosmos_1 is the paper's Table 17."""

import dataclasses
from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II


@dataclass
class KosmosConfig(FairseqDataclass):
    """kosmos_1: the paper's model."""

    decoder_layers: int = field(default=24, metadata={"help": "decoder layers"})
    decoder_embed_dim: int = field(default=2048, metadata={"help": "width of the decoder"})
    decoder_ffn_embed_dim: int = field(default=8192, metadata={"help": "inner width of the feed-forward networks"})
    decoder_attention_heads: int = field(default=32, metadata={"help": "attention heads"})
    activation_fn: ChoiceEnum(["gelu", "relu", "swish"]) = field(default="gelu", metadata={"help": "activation"})
    dropout: float = field(default=0.1, metadata={"help": "dropout on embeddings and sublayer outputs"})
    attention_dropout: float = field(default=0.1, metadata={"help": "dropout on attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout inside the feed-forward networks"})
    layernorm_eps: float = field(default=1e-5, metadata={"help": "epsilon of every LayerNorm of the decoder"})
    positions: ChoiceEnum(["xpos", "sinusoidal", "both"]) = field(
        default="xpos",
        metadata={"help": "xpos (the paper), sinusoidal (added to the embeddings, as in KOSMOS-2) or both"},
    )
    untied_embeddings: bool = field(
        default=False, metadata={"help": "give the output projection a matrix of its own (the paper ties it)"}
    )
    initialisation: ChoiceEnum(["xavier", "torchscale"]) = field(
        default="xavier",
        metadata={"help": "Magneto's initialisation: the paper's on Xavier, or TorchScale's on torch's default"},
    )
    attention: ChoiceEnum(["documents", "masked"]) = field(
        default="documents",
        metadata={
            "help": "how attention is computed, with the same result: documents (each as a row of its own) or masked "
            "(packed rows with a T×T mask)"
        },
    )
    checkpoint_activations: ChoiceEnum(["none", "selective", "full"]) = field(
        default="none",
        metadata={
            "help": "what the backward pass computes again of a decoder layer: none, selective (all but products of "
            "matrices and attention) or full (everything)"
        },
    )
    bf16_autocast: bool = field(
        default=False,
        metadata={
            "help": "compute in bfloat16 over float32 weights, whose gradients add up in float32; instead of --bf16, "
            "where they add up in bfloat16 and checkpoints hold rounded weights"
        },
    )
    compile: bool = field(
        default=False, metadata={"help": "torch.compile the decoder's layers and the vision encoder's"}
    )
    decoder_weights: Optional[str] = field(
        default=None,
        metadata={"help": "start the decoder from this checkpoint: a kosmos_1_lm, or TorchScale's language model"},
    )
    vision_encoder: str = field(
        default="clip",
        metadata={"help": "kind of vision encoder: clip (open_clip's ViTs), efficientnet_lite, or none (text alone)"},
    )
    vision_model: str = field(
        default="ViT-L-14",
        metadata={"help": "clip: an open_clip model or a JSON file in its format; efficientnet_lite: lite0, lite1, …"},
    )
    vision_weights: str = field(
        default="openai",
        metadata={
            "help": "clip: openai, another open_clip tag, a .pt or .safetensors file; efficientnet_lite: imagenet; "
            "none: random"
        },
    )
    trainable_vision_layers: int = field(
        default=1, metadata={"help": "how many of the vision encoder's last layers are trained (the paper: 1)"}
    )
    frozen_vision_dtype: ChoiceEnum(["model", "bfloat16"]) = field(
        default="model", metadata={"help": "precision of the frozen layers: the model's own, or bfloat16"}
    )
    cache_vision_features: bool = field(
        default=False,
        metadata={"help": "keep the frozen layers' features of every image in memory (small data seen many times)"},
    )
    resampler: ChoiceEnum(["attentive", "perceiver", "linear"]) = field(
        default="attentive",
        metadata={
            "help": "attentive (one attention layer, as in KOSMOS-2), perceiver (Flamingo's) or linear (none: a linear "
            "map of each feature)"
        },
    )
    resampler_layers: int = field(default=6, metadata={"help": "depth of the perceiver resampler (Flamingo: 6)"})
    image_tokens: int = II("task.image_tokens")
    image_size: int = II("task.image_size")
    image_fit: str = II("task.image_fit")
    tokens_per_sample: int = II("task.tokens_per_sample")


def preset(cls: type) -> type:
    """A dataclass out of a class that names other defaults; their types and help texts stay."""
    for option in dataclasses.fields(cls.__base__):
        if option.name in vars(cls):
            default = vars(cls)[option.name]
            setattr(cls, option.name, field(default=default, metadata=option.metadata))
            cls.__annotations__[option.name] = option.type
    return dataclass(cls)


@preset
class KosmosLmConfig(KosmosConfig):
    """kosmos_1_lm: the paper's text-only baseline (§4.9), kosmos_1's decoder alone."""

    vision_encoder = "none"


@preset
class KosmosBaseConfig(KosmosConfig):
    """kosmos_base: the size of GPT's and BERT's base models."""

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


ARCHITECTURES = {
    "kosmos_1": KosmosConfig,
    "kosmos_1_lm": KosmosLmConfig,
    "kosmos_base": KosmosBaseConfig,
    "kosmos_tiny": KosmosTinyConfig,
    "kosmos_2": Kosmos2Config,
}
