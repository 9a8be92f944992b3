"""transformers' Kosmos2Processor with what it lacks: a chat template, and any number of images at any place.

    <s> <image> slots </image> text … <image> slots </image> text …

A text has one `<image>` for each image; if none has one, an image comes before each text, as in transformers' own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchFeature, Kosmos2Processor


class Kosmos2ChatProcessor(Kosmos2Processor):
    """Image processor and tokenizer in one, for transformers' Kosmos2ForConditionalGeneration.

    Args:
        image_processor: A CLIPImageProcessor.
        tokenizer: An XLMRobertaTokenizer.
        num_patch_index_tokens: KOSMOS-2's location tokens.
        slots_per_image: K, embeddings per image.
        hidden_size: E, width of the decoder.
        chat_template: Jinja template of conversations.
        **kwargs: Ignored.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_patch_index_tokens: int = 1024,
        slots_per_image: int = 64,
        hidden_size: int = 2048,
        chat_template: Any = None,
        **kwargs: Any,
    ):
        super().__init__(image_processor, tokenizer, num_patch_index_tokens)
        self.slots_per_image = slots_per_image
        self.hidden_size = hidden_size
        self.chat_template = chat_template

    def __call__(self, images: Any = None, text: str | Sequence[str] | None = None, **kwargs: Any) -> BatchFeature:
        """Prepare prompts.

        Args:
            images: The images of all texts in order, as one list or one list per text.
            text: One or several texts, with an `<image>` for each image.
            **kwargs: Arguments of transformers' processor.

        Returns:
            `input_ids`, `attention_mask`, `image_embeds_position_mask`, and `pixel_values` [N, 3, S, S]; without an
            image, `image_embeds` of none, as the model takes text only with embeddings of images.

        Raises:
            ValueError: The numbers of `<image>` and of images differ.
        """
        texts = [] if text is None else [text] if isinstance(text, str) else list(text)
        found = _flat(images)
        marks = sum(one.count(self.boi_token) for one in texts)
        if not texts or (found and not marks) or kwargs.get("bboxes") is not None:
            return super().__call__(images, text, **kwargs)
        if marks != len(found):
            raise ValueError(f"The text has {marks} {self.boi_token} and {len(found)} images are given.")
        options = {**kwargs.pop("common_kwargs", {}), **kwargs.pop("text_kwargs", {})}
        for name in ("images_kwargs", "videos_kwargs", "audio_kwargs", "videos", "audio", "bboxes", "add_eos_token"):
            kwargs.pop(name, None)
        options.update(kwargs)
        return_tensors = options.pop("return_tensors", None)
        begin = self.tokenizer.bos_token if options.pop("add_special_tokens", True) else ""
        slots = self.boi_token * (1 + self.slots_per_image) + self.eoi_token
        prompts = [begin + one.replace(self.boi_token, slots) for one in texts]
        inputs: dict[str, Any] = dict(self.tokenizer(prompts, add_special_tokens=False, **options))
        masks = [self._slots(ids) for ids in inputs["input_ids"]]
        first = self.tokenizer.unk_token_id  # transformers' processor numbers the slots of an image from here
        inputs["input_ids"] = [
            [first + slot if slot else token for token, slot in zip(ids, mask, strict=True)]
            for ids, mask in zip(inputs["input_ids"], masks, strict=True)
        ]
        inputs["image_embeds_position_mask"] = [[int(slot > 0) for slot in mask] for mask in masks]
        if isinstance(text, str) and return_tensors is None:
            inputs = {name: values[0] for name, values in inputs.items()}
        if found:
            inputs["pixel_values"] = self.image_processor(found, return_tensors=return_tensors)["pixel_values"]
        elif return_tensors == "pt":
            inputs["image_embeds"] = torch.zeros(0, self.slots_per_image, self.hidden_size)
        return BatchFeature(inputs, tensor_type=return_tensors)

    def _slots(self, ids: Sequence[int]) -> list[int]:
        """Which slot of its image, from 1, each position is; 0 for others."""
        boi, numbers = self.tokenizer.convert_tokens_to_ids(self.boi_token), [0] * len(ids)
        for place in range(1, len(ids)):
            if ids[place] == ids[place - 1] == boi:
                numbers[place] = numbers[place - 1] + 1
        return numbers


def _flat(images: Any) -> list[Any]:
    """One image, or lists of images of any depth, as one list."""
    if isinstance(images, list | tuple):
        return [image for part in images for image in _flat(part)]
    return [] if images is None else [images]
