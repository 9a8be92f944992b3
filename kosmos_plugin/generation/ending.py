"""What ends a text: `</s>`, an image, a stop token or a stop text."""

from collections.abc import Sequence

from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.generation.text_stream import TextStream
from kosmos_plugin.vocabulary import Vocabulary


class Ending:
    """Whether generation ends after given tokens.

    Args:
        vocabulary: The vocabulary.
        options: Its stop tokens and stop texts.

    Raises:
        UserError: A stop token is not in the vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, options: SearchOptions):
        self.vocabulary = vocabulary
        # At `<image>` too: an image would follow, and the model does not generate images.
        self.tokens = {vocabulary.eos, vocabulary.image_begin}
        self.tokens |= {_id(vocabulary, token) for token in options.stop_tokens}
        self.stop = options.stop

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Whether the last of `tokens` ends the text, or has completed a stop text."""
        return tokens[-1] in self.tokens or (bool(self.stop) and self._has_stop_text(tokens))

    def _has_stop_text(self, tokens: Sequence[int]) -> bool:
        stream = TextStream(self.vocabulary, self.stop)
        for token in tokens:
            stream.add(token)
        return stream.stopped_by is not None


def _id(vocabulary: Vocabulary, token: str | int) -> int:
    if isinstance(token, str):
        if (found := vocabulary.index(token)) is not None:
            return found
        raise UserError(f"The stop token {token!r} is not in the vocabulary. To end at a text, give stop.")
    if not 0 <= token < len(vocabulary):
        raise UserError(f"The stop token {token} is not in the vocabulary of {len(vocabulary):,} tokens.")
    return token
