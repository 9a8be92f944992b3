"""The tokenizer of KOSMOS models; `tokenizer.json` holds what it does."""

from transformers import PreTrainedTokenizerFast


class KosmosTokenizer(PreTrainedTokenizerFast):
    """`<s>` at the beginning and nothing at the end, as prompts are; padding on the left, so that all rows end together."""

    vocab_files_names = {"tokenizer_file": "tokenizer.json"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    padding_side = "left"
