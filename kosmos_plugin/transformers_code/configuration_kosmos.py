"""Configuration of KOSMOS-1 models (https://arxiv.org/abs/2302.14045) that were trained with kosmos_plugin."""

from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto import modeling_auto


class KosmosConfig(PretrainedConfig):
    """The architecture of a KOSMOS model; the defaults are the paper's, without a vision encoder.

    Args:
        vocab_size: V.
        hidden_size: E, width of the decoder.
        intermediate_size: Inner width of the feed-forward networks.
        num_hidden_layers: Layers of the decoder.
        num_attention_heads: Attention heads of the decoder.
        hidden_act: Activation function of the feed-forward networks: "gelu", "relu" or "swish".
        dropout: Dropout on embeddings and sublayer outputs.
        attention_dropout: Dropout on attention weights.
        activation_dropout: Dropout inside the feed-forward networks.
        layer_norm_eps: Epsilon of every LayerNorm of the decoder.
        max_position_embeddings: The longest sequence of training, in positions; no weight depends on it.
        positions: "xpos", "sinusoidal" (added to the embeddings) or "both".
        xpos_scale_base: The distance, in positions, over which xPos' scores decay.
        num_image_tokens: K, embeddings per image.
        image_size: S, height and width of an image in pixels.
        resampler: "attentive", "perceiver" or "linear".
        resampler_layers: Layers of the perceiver resampler.
        vision_config: The vision encoder: `model_type` is "clip" or "efficientnet_lite", see `vision_kosmos`. None for
            a model that reads only text.
        image_token_id: The id at the positions of image embeddings.
        boi_token_id: The id of `<image>`, before an image's embeddings.
        eoi_token_id: The id of `</image>`, after them.
        initializer_range: Standard deviation of new weights.
        **kwargs: Arguments of PretrainedConfig.
    """

    model_type = "kosmos"
    keys_to_ignore_at_inference = ("past_key_values", "cache")

    def __init__(
        self,
        vocab_size: int = 64007,
        hidden_size: int = 2048,
        intermediate_size: int = 8192,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 32,
        hidden_act: str = "gelu",
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        activation_dropout: float = 0.0,
        layer_norm_eps: float = 1e-5,
        max_position_embeddings: int = 2048,
        positions: str = "xpos",
        xpos_scale_base: int = 512,
        num_image_tokens: int = 64,
        image_size: int = 224,
        resampler: str = "attentive",
        resampler_layers: int = 6,
        vision_config: dict[str, Any] | None = None,
        image_token_id: int | None = None,
        boi_token_id: int | None = None,
        eoi_token_id: int | None = None,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.hidden_act = hidden_act
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.activation_dropout = activation_dropout
        self.layer_norm_eps = layer_norm_eps
        self.max_position_embeddings = max_position_embeddings
        self.positions = positions
        self.xpos_scale_base = xpos_scale_base
        self.num_image_tokens = num_image_tokens
        self.image_size = image_size
        self.resampler = resampler
        self.resampler_layers = resampler_layers
        self.vision_config = vision_config
        self.image_token_id = image_token_id
        self.boi_token_id = boi_token_id
        self.eoi_token_id = eoi_token_id
        self.initializer_range = initializer_range
        self.use_cache = kwargs.pop("use_cache", True)
        ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": True}
        super().__init__(**{**ids, **kwargs})

    @property
    def head_dim(self) -> int:
        """D, width of an attention head."""
        return self.hidden_size // self.num_attention_heads


# `transformers serve` finds the class that loads a model, and whether it reads images, only in this table of names.
for names in ("MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"):
    getattr(modeling_auto, names, {}).setdefault(KosmosConfig.model_type, "KosmosForConditionalGeneration")
