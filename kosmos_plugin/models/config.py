"""The architectures (`--arch`) as dataclasses: kosmos_1 is Table 17, kosmos_tiny the quickstart's."""

from dataclasses import dataclass, field

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
    share_decoder_input_output_embed: bool = field(
        default=True, metadata={"help": "untie the input and output embeddings (tied by default)"}
    )
    initialisation: ChoiceEnum(["xavier", "torchscale"]) = field(
        default="xavier",
        metadata={"help": "Magneto's initialisation: the paper's on Xavier, or TorchScale's on torch's default"},
    )
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "recompute the decoder layers' activations in the backward pass"}
    )
    vision_encoder: str = field(
        default="clip", metadata={"help": "kind of vision encoder: clip (open_clip's ViTs) or efficientnet_lite"}
    )
    vision_model: str = field(
        default="ViT-L-14",
        metadata={"help": "clip: an open_clip model or a JSON file in its format; efficientnet_lite: lite0, lite1, …"},
    )
    vision_weights: str = field(
        default="openai",
        metadata={"help": "clip: openai, another open_clip tag, a file; efficientnet_lite: imagenet; none: random"},
    )
    trainable_vision_layers: int = field(
        default=1, metadata={"help": "how many of the vision encoder's last layers are trained (the paper: 1)"}
    )
    cache_vision_features: bool = field(
        default=False,
        metadata={"help": "keep the frozen layers' features of every image in memory (small data seen many times)"},
    )
    image_tokens: int = II("task.image_tokens")
    image_size: int = II("task.image_size")
    tokens_per_sample: int = II("task.tokens_per_sample")


@dataclass
class KosmosTinyConfig(KosmosConfig):
    """kosmos_tiny: learns from real images in minutes on two CPU cores."""

    decoder_layers: int = 3
    decoder_embed_dim: int = 192
    decoder_ffn_embed_dim: int = 768
    decoder_attention_heads: int = 4
    dropout: float = 0.0
    attention_dropout: float = 0.0
    vision_encoder: str = "efficientnet_lite"
    vision_model: str = "lite0"
    vision_weights: str = "imagenet"


ARCHITECTURES = {"kosmos_1": KosmosConfig, "kosmos_tiny": KosmosTinyConfig}
