"""The tokenizer of KOSMOS models; `tokenizer.json` holds what it does."""

from transformers import PreTrainedTokenizerFast


class KosmosTokenizer(PreTrainedTokenizerFast):
    """`<s>` at the beginning, nothing at the end; padding on the left, so that all rows of prompts end together."""

    vocab_files_names = {"tokenizer_file": "tokenizer.json"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    padding_side = "left"
