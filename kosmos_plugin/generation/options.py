"""Options of generation. This module imports neither torch nor fairseq, so commands can show them in their help."""

import math
from dataclasses import dataclass

from kosmos_plugin.errors import UserError
from kosmos_plugin.options import option

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class DeviceOptions:
    """Where a model runs, and in which precision."""

    device: str | None = option(
        None, "device, as torch names it: cpu, cuda, cuda:1, … (default: the GPU if there is one)", metavar="DEVICE"
    )
    dtype: str | None = option(
        None, "precision of weights and activations (default: bfloat16 on a GPU, float32 on a CPU)", DTYPES
    )


@dataclass(frozen=True)
class SearchOptions:
    """How the continuation of a prompt is searched for."""

    beam: int = option(1, "beams; 1 is greedy search", minimum=1)
    max_new_tokens: int = option(64, "maximum number of tokens to generate", minimum=1)
    length_penalty: float = option(1.0, "exponent of the length that a hypothesis's log-probability is divided by")
    stop: tuple[str, ...] = option(
        (), "text that ends generation, as </s> does, and is left out; may be repeated", repeated=True
    )
    do_sample: bool = option(False, "draw each token at random, as likely as the model finds it")
    temperature: float = option(
        1.0, "log-probabilities are divided by it before drawing; 0 is greedy search", minimum=0
    )
    top_k: int = option(0, "draw from the N likeliest tokens; 0: from all", minimum=0)
    top_p: float = option(1.0, "draw from the likeliest tokens that together have the probability X", minimum=0)
    min_p: float = option(0.0, "draw from tokens at least X times as likely as the likeliest", minimum=0)
    seed: int | None = option(None, "seed of the draws, the same for each prompt (default: other draws each time)")

    def __post_init__(self) -> None:
        for name, lowest in (("beam", 1), ("max_new_tokens", 1), ("top_k", 0)):
            if getattr(self, name) < lowest:
                raise UserError(f"{name} must be at least {lowest}, not {getattr(self, name)}.")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature must be at least 0, not {self.temperature}.")
        for name in ("top_p", "min_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is a probability, from 0 to 1, not {getattr(self, name)}.")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UserError(f"seed must be at least 0 and less than 2^63, not {self.seed}.")
        if self.do_sample and self.beam > 1:
            raise UserError("Beam search does not sample: give beam 1, or leave out do_sample.")
        if isinstance(self.stop, str):  # it would stop at each of its letters
            raise UserError(f"stop must be several texts, not one: ({self.stop!r},)")

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return self.do_sample and self.temperature > 0
