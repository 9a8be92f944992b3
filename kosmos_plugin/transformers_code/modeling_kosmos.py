"""KOSMOS-1 (https://arxiv.org/abs/2302.14045) in transformers.

pixel_values [N, 3, S, S] ─ vision encoder ─→ features [N, L, W] ─ resampler ─→ image embeddings [N, K, E]
                                                                                     │ where ids are image_token_id
input_ids [B, T] ─────────────── embedding table ─────────────→ embeddings [B, T, E] ─ decoder ─→ logits [B, T, V]
"""

import inspect
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from .configuration_kosmos import KosmosConfig
from .decoder_kosmos import KosmosDecoder
from .resampler_kosmos import RESAMPLERS, AttentiveResampler, PerceiverResampler
from .vision_kosmos import VISION_ENCODERS, ClipVision, LayerScale

# What transformers calls the cache in outputs: `cache` from 5.24 on.
CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"


class KosmosPreTrainedModel(PreTrainedModel):
    """What transformers needs to know about the models."""

    config_class = KosmosConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("KosmosDecoderLayer", "ClipLayer", "InvertedBottleneck")
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, LayerScale):
            nn.init.constant_(module.gamma, 1e-5)
        elif isinstance(module, ClipVision):
            nn.init.normal_(module.class_embedding, std=std)
            nn.init.normal_(module.position_embedding, std=std)
        elif isinstance(module, AttentiveResampler):
            nn.init.normal_(module.latents)
        elif isinstance(module, PerceiverResampler):
            nn.init.normal_(module.latents)
            nn.init.normal_(module.time_embeddings)


class KosmosModel(KosmosPreTrainedModel):
    """Vision encoder, resampler and decoder, without the output projection."""

    def __init__(self, config: KosmosConfig):
        super().__init__(config)
        self.vision = self.resampler = None
        if config.vision_config is not None:
            vision = VISION_ENCODERS[config.vision_config["model_type"]](config, config.vision_config)
            self.vision, self.resampler = vision, RESAMPLERS[config.resampler](config, vision.width)
        self.decoder = KosmosDecoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding table."""
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding table."""
        self.decoder.embed_tokens = value

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Embeddings of images: normalized pixels [N, 3, S, S] → [N, K, E]."""
        if self.vision is None or self.resampler is None:
            raise ValueError("This model reads only text, but pixel_values were given.")
        weights = next(self.vision.parameters())
        return self.resampler(self.vision(pixel_values.to(weights.device, weights.dtype)))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple:
        """Run the model.

        Args:
            input_ids: int64 [B, T]; image_token_id where an image embedding replaces the token's.
            pixel_values: Normalized images [N, 3, S, S], in the order of their tokens, row by row.
            attention_mask: [B, P], 0 at padding on either side; or a mask that is made already, [B, 1, T, P].
            position_ids: int64 [B, T]; by default the number of positions before that are not padding.
            past_key_values: Cache of earlier positions.
            inputs_embeds: Embeddings [B, T, E] instead of `input_ids`, those of images in place.
            use_cache: Whether to make a cache if none is given.
            output_hidden_states: Whether to return hidden states.
            output_attentions: Whether to return attention weights; `attn_implementation="eager"` has them.
            return_dict: False for a tuple.
            cache: The name of `past_key_values` from transformers 5.24 on.
            **kwargs: Passed on to the attention function.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds.")
        past_key_values = cache if cache is not None else past_key_values
        if input_ids is not None:
            inputs_embeds = self._embed(input_ids, pixel_values)
        assert inputs_embeds is not None
        checkpointing = self.decoder.layers[0].gradient_checkpointing and self.training and torch.is_grad_enabled()
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if checkpointing:
            past_key_values = None
        elif use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        length = inputs_embeds.shape[1]
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        cache_position = kwargs.pop("cache_position", None)
        if cache_position is None:
            cache_position = torch.arange(length, device=inputs_embeds.device) + past
        if position_ids is None:
            position_ids = cache_position.unsqueeze(0).expand(len(inputs_embeds), -1)
            if attention_mask is not None and attention_mask.dim() == 2:
                position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        mask = _causal_mask(self.config, inputs_embeds, attention_mask, past_key_values, position_ids, cache_position)
        hidden, hidden_states, attentions = self.decoder(
            inputs_embeds, position_ids, mask, past_key_values, cache_position=cache_position, **kwargs
        )
        output = BaseModelOutputWithPast(
            last_hidden_state=hidden,
            hidden_states=hidden_states if _wanted(output_hidden_states, self.config.output_hidden_states) else None,
            attentions=attentions if _wanted(output_attentions, self.config.output_attentions) else None,
            **{CACHE: past_key_values},
        )
        return output.to_tuple() if return_dict is False else output

    def _embed(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None) -> torch.Tensor:
        """Embeddings [B, T, E] of tokens and of images in their places."""
        embeddings = self.decoder.embed_tokens(input_ids)
        if pixel_values is None:
            return embeddings
        images = self.get_image_features(pixel_values)
        slots = input_ids == self.config.image_token_id
        if int(slots.sum()) != images.shape[0] * images.shape[1]:
            raise ValueError(
                f"{int(slots.sum())} positions are for images, and {len(images)} images have {images.shape[1]} "
                "embeddings each."
            )
        return embeddings.masked_scatter(slots.unsqueeze(-1), images.to(embeddings.device, embeddings.dtype))


class KosmosForConditionalGeneration(KosmosPreTrainedModel, GenerationMixin):
    """KosmosModel and the output projection: continues text with images."""

    # transformers 4 reads only the keys.
    _tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: KosmosConfig):
        super().__init__(config)
        self.model = KosmosModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.loss_type = "ForCausalLM"
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding table."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding table."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The output projection."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the output projection."""
        self.lm_head = new_embeddings

    def get_decoder(self) -> nn.Module:
        """The model without the output projection."""
        return self.model

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Embeddings of images: normalized pixels [N, 3, S, S] → [N, K, E]."""
        return self.model.get_image_features(pixel_values, **kwargs)

    def forward(  # noqa: D417
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache: Cache | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple:
        """Compute logits and, with labels, the loss.

        Args:
            input_ids: As for KosmosModel, like all that is not listed here.
            labels: int64 [B, T], the ids to predict, as input_ids; −100 where there is no loss.
            logits_to_keep: Compute logits of only the last N positions, or of these; 0 for all.
            num_items_in_batch: The number of labels that the sum of nll is divided by (by default, those here).
        """
        output = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            cache=cache,
            **kwargs,
        )
        hidden = output.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, num_items_in_batch=num_items_in_batch
            )
        whole = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            **{CACHE: output.get(CACHE)},
        )
        return whole.to_tuple() if return_dict is False else whole

    def generate(self, *args: Any, tokenizer: Any = None, **kwargs: Any) -> Any:
        """As transformers', whose `serve` gives the processor where stop strings need its tokenizer."""
        if tokenizer is not None:
            kwargs["tokenizer"] = getattr(tokenizer, "tokenizer", tokenizer)
        return super().generate(*args, **kwargs)

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        """As transformers', but images go only with their tokens: later steps have them in the cache."""
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        ids = inputs.get("input_ids")
        if inputs.get("pixel_values") is None or ids is None:
            return inputs
        if ids.shape[1] == 1 or not bool((ids == self.config.image_token_id).any()):
            inputs["pixel_values"] = None
        return inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Repeat each row for beams or samples. Images are repeated row by row, as a row may have several."""
        pixel_values = model_kwargs.pop("pixel_values", None)
        expanded, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        if pixel_values is not None:
            if expand_size > 1 and input_ids is not None:
                slots = (input_ids == self.config.image_token_id).sum(dim=1)
                rows = pixel_values.split((slots // self.config.num_image_tokens).tolist())
                pixel_values = torch.cat([row for images in rows for row in [images] * expand_size])
            model_kwargs["pixel_values"] = pixel_values
        return expanded, model_kwargs


def _wanted(argument: bool | None, default: bool | None) -> bool:
    return bool(default if argument is None else argument)


def _causal_mask(
    config: KosmosConfig,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
    position_ids: torch.Tensor,
    cache_position: torch.Tensor,
) -> torch.Tensor | None:
    """transformers' causal mask for the attention function in use; its arguments have had several names."""
    values = {
        "config": config,
        "input_embeds": inputs_embeds,
        "inputs_embeds": inputs_embeds,
        "attention_mask": attention_mask,
        "cache_position": cache_position,
        "past_key_values": past_key_values,
        "cache": past_key_values,
        "position_ids": position_ids,
    }
    names = inspect.signature(create_causal_mask).parameters
    return create_causal_mask(**{name: value for name, value in values.items() if name in names})
