"""The options of a search, for Python and for the commands."""

from dataclasses import dataclass

from kosmos_plugin.options import option


@dataclass(frozen=True)
class SearchOptions:
    """How hypotheses are searched and when they end."""

    beam: int = option(1, "beam size; 1 is greedy search", minimum=1)
    max_new_tokens: int = option(64, "maximum number of tokens to generate", minimum=1)
    length_penalty: float = option(1.0, "exponent of the length by which a beam's log-probability is divided")
    stop: tuple[str, ...] = option((), "text that ends generation, as </s> does; may be repeated", repeated=True)
