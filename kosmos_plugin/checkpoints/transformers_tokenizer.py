"""A vocabulary → the files of a transformers tokenizer: `tokenizer.json` and `tokenizer_config.json`.

text ─ normalizer ─→ SentencePiece's normal form, `</line>` for newlines ─ special tokens ─→ stretches of text
     ─ pre-tokenizer ─→ ▁ for spaces ─ model ─→ pieces ─ template ─→ `<s>` before them

The tokens are the vocabulary's, which is checked for every piece when the files are written. Only a text that spells a
special token, or a byte as in `<0x41>`, is text to the vocabulary and may be that token here, as usual in transformers.
And of rare characters with combining marks, such as ² with one, the package tokenizers loses the mark.
"""

import json
from pathlib import Path
from typing import Any

from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import LINE_END, SPECIAL_TOKENS, Vocabulary

UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType of SentencePiece
_SPACE = "[\\s\x1c-\x1f\x85]"  # what Python's str.strip takes for white space
_LINE = "\ufdd0"  # stands for `</line>` while text is normalized; no character of Unicode


def write_tokenizer(vocabulary: Vocabulary, max_length: int, folder: Path) -> None:
    """Write the tokenizer's files into `folder`.

    Args:
        vocabulary: The vocabulary.
        max_length: The model's longest sequence.
        folder: A Hugging Face folder.

    Raises:
        UserError: The SentencePiece model has something that the package tokenizers cannot express.
    """
    tokenizer = build_tokenizer(vocabulary)
    _require_same_tokens(vocabulary, tokenizer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "auto_map": {"AutoTokenizer": [None, "tokenization_kosmos.KosmosTokenizer"]},
        "bos_token": vocabulary.symbol(vocabulary.bos),
        "eos_token": vocabulary.symbol(vocabulary.eos),
        "pad_token": vocabulary.symbol(vocabulary.pad),
        "unk_token": vocabulary.symbol(vocabulary.unk),
        "mask_token": vocabulary.symbol(vocabulary.image_slot),
        "model_max_length": max_length,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }
    text = json.dumps(config, ensure_ascii=False, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def build_tokenizer(vocabulary: Vocabulary) -> Any:
    """The `tokenizers.Tokenizer` of a vocabulary.

    Raises:
        UserError: As for `write_tokenizer`.
    """
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Tokenizer, processors

    proto = sentencepiece_model_pb2.ModelProto.FromString(vocabulary.processor.serialized_model_proto())
    tokenizer = Tokenizer(_model(vocabulary, proto))
    tokenizer.normalizer = _normalizer(proto.normalizer_spec, vocabulary.newlines)
    tokenizer.pre_tokenizer, tokenizer.decoder = _spaces(proto.normalizer_spec)
    ids = [vocabulary.bos, vocabulary.pad, vocabulary.eos, vocabulary.unk]
    ids += range(vocabulary.image_slot, len(vocabulary))
    special = [vocabulary.symbol(token) for token in ids]
    if vocabulary.newlines:  # text: it is decoded as a newline
        special.remove(LINE_END)
        tokenizer.add_tokens([AddedToken(LINE_END, normalized=True)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    begin = vocabulary.symbol(vocabulary.bos)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, vocabulary.bos)]
    )
    return tokenizer


def _model(vocabulary: Vocabulary, proto: Any) -> Any:
    """The model of the pieces, under the vocabulary's ids."""
    from tokenizers import models

    symbols = [vocabulary.symbol(token) for token in range(len(vocabulary))]
    if len(set(symbols)) < len(symbols):
        twice = next(symbol for symbol in symbols if symbols.count(symbol) > 1)
        raise UserError(f"The package tokenizers cannot express a vocabulary in which {twice!r} has two ids.")
    kind = proto.trainer_spec.model_type
    score_of = {piece.piece: piece.score for piece in proto.pieces}
    if kind == UNIGRAM:
        lowest = min(score_of.values())  # special tokens are found before the model is asked
        scored = [(symbol, score_of.get(symbol, lowest)) for symbol in symbols]
        return models.Unigram(scored, vocabulary.unk, byte_fallback=proto.trainer_spec.byte_fallback)
    if kind == BPE:
        pieces = symbols[vocabulary.unk + 1 : vocabulary.image_slot]
        return models.BPE(
            {symbol: token for token, symbol in enumerate(symbols)},
            _merges(pieces, score_of),
            unk_token=vocabulary.symbol(vocabulary.unk),
            fuse_unk=True,
            byte_fallback=proto.trainer_spec.byte_fallback,
        )
    raise UserError("Only SentencePiece models of the types unigram and bpe can be converted for transformers.")


def _merges(pieces: list[str], score_of: dict[str, float]) -> list[tuple[str, str]]:
    """The merges of a BPE model: all pairs of pieces that make a piece, best pieces first."""
    rank = {piece: number for number, piece in enumerate(sorted(pieces, key=lambda piece: -score_of.get(piece, 0.0)))}
    merges = []
    for piece in rank:
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += sorted(
            (pair for pair in pairs if pair[0] in rank and pair[1] in rank),
            key=lambda pair: (rank[pair[0]], rank[pair[1]]),
        )
    return merges


def _normalizer(spec: Any, newlines: bool) -> Any:
    from tokenizers import Regex, normalizers

    steps: list[Any] = []
    if newlines:  # lines that are not blank, with one mark between them
        steps += [
            normalizers.Replace(Regex(f"\\A{_SPACE}*[\r\n]{_SPACE}*\\z"), ""),
            normalizers.Replace(Regex(f"^(?:{_SPACE}*[\r\n])+"), ""),
            normalizers.Replace(Regex(f"(?:[\r\n]{_SPACE}*)+$"), ""),
            normalizers.Replace(Regex(f"[\r\n](?:{_SPACE}*[\r\n])*"), _LINE),
        ]
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if newlines:
        steps += [
            normalizers.Replace(Regex(f" ?{_LINE}[ {_LINE}]*"), _LINE),  # a line may have become empty
            normalizers.Replace(Regex(f"^{_LINE}|{_LINE}$"), ""),
            normalizers.Replace(_LINE, LINE_END),
        ]
    return normalizers.Sequence(steps)


def _spaces(spec: Any) -> tuple[Any, Any]:
    """Pre-tokenizer and decoder: spaces ⇄ ▁, and `</line>` → newline."""
    from tokenizers import Regex, decoders, pre_tokenizers

    begin = " *" if spec.remove_extra_whitespaces else " ?" if spec.add_dummy_prefix else ""
    pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if spec.add_dummy_prefix else "never", split=False)
    decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Replace(Regex(f"^{begin}"), ""),
            decoders.Replace(Regex(f"{LINE_END}{begin}"), "\n"),
        ]
    )
    return pre_tokenizer, decoder


def _require_same_tokens(vocabulary: Vocabulary, tokenizer: Any) -> None:
    """Raise UserError unless each piece's text, in a sentence, has the same tokens in both."""
    for token in range(len(vocabulary)):
        symbol = vocabulary.symbol(token)
        if tokenizer.id_to_token(token) != symbol:
            raise UserError(f"The token {token} is {symbol!r}, and {tokenizer.id_to_token(token)!r} in the tokenizer.")
    is_byte = vocabulary.processor.is_byte
    piece_id = vocabulary.processor.piece_to_id
    symbols = [vocabulary.symbol(token) for token in range(vocabulary.unk + 1, vocabulary.image_slot)]
    texts = [f"a {symbol.replace('▁', ' ')} 1" for symbol in symbols if not is_byte(piece_id(symbol))]
    texts = [text for text in texts if not any(token in text for token in SPECIAL_TOKENS)]
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    for text, encoding in zip(texts, encodings, strict=True):
        if encoding.ids != vocabulary.encode(text):
            raise UserError(
                f"The package tokenizers reads {text!r} as other tokens than SentencePiece: this vocabulary cannot be "
                "converted for transformers."
            )
