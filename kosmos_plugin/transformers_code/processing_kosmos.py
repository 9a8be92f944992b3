"""Text with `<image>`, and images → the model's inputs.

    <s> <image> <mask> … <mask> </image> text …

Each `<image>` of a text becomes `<image>`, as many `<mask>` as an image has embeddings, and `</image>`.
"""

from collections.abc import Sequence
from typing import Any

import transformers
from transformers import BatchFeature, ProcessorMixin

from .image_processing_kosmos import flatten_images


class KosmosProcessor(ProcessorMixin):
    """Image processor and tokenizer in one.

    Args:
        image_processor: A KosmosImageProcessor.
        tokenizer: A KosmosTokenizer.
        num_image_tokens: K, embeddings per image.
        chat_template: Jinja template of conversations.
        **kwargs: Ignored.
    """

    if transformers.__version__.startswith("4."):  # later versions find them by the names of __init__'s arguments
        attributes = ["image_processor", "tokenizer"]
        image_processor_class = "AutoImageProcessor"
        tokenizer_class = "AutoTokenizer"

    boi_token = "<image>"
    image_token = "<mask>"
    eoi_token = "</image>"

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_image_tokens: int = 64,
        chat_template: Any = None,
        **kwargs: Any,
    ):
        self.num_image_tokens = num_image_tokens
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __call__(self, images: Any = None, text: str | Sequence[str] | None = None, **kwargs: Any) -> BatchFeature:
        """Prepare prompts.

        Args:
            images: The images of all texts in order, as one list or one list per text; see KosmosImageProcessor.
            text: One or several texts, with an `<image>` for each image.
            **kwargs: Arguments of the tokenizer.

        Returns:
            `input_ids`, `attention_mask` and, with images, `pixel_values` [N, 3, S, S].

        Raises:
            ValueError: The numbers of `<image>` and of images differ.
        """
        options = {**kwargs.pop("common_kwargs", {}), **kwargs.pop("text_kwargs", {})}
        for name in ("images_kwargs", "videos_kwargs", "audio_kwargs", "videos", "audio"):
            kwargs.pop(name, None)
        options.update(kwargs)
        found = flatten_images(images)
        inputs: dict[str, Any] = {}
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            marks = sum(one.count(self.boi_token) for one in texts)
            if marks != len(found):
                raise ValueError(
                    f"The text has {marks} {self.boi_token} and {len(found)} images are given; each image needs its "
                    f"{self.boi_token}."
                )
            slots = self.boi_token + self.image_token * self.num_image_tokens + self.eoi_token
            inputs = dict(self.tokenizer([one.replace(self.boi_token, slots) for one in texts], **options))
        return_tensors = options.get("return_tensors")
        if found:
            inputs["pixel_values"] = self.image_processor(found, return_tensors=return_tensors)["pixel_values"]
        return BatchFeature(inputs, tensor_type=return_tensors)

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """The tokenizer's."""
        return self.tokenizer.batch_decode(*args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """The tokenizer's."""
        return self.tokenizer.decode(*args, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        """Names of what the model takes."""
        return [*self.tokenizer.model_input_names, *self.image_processor.model_input_names]
