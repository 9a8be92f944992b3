"""Options of generation. This module imports neither torch nor fairseq, so commands can show them in their help."""

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

    def __post_init__(self) -> None:
        for name in ("beam", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if isinstance(self.stop, str):  # it would stop at each of its letters
            raise UserError(f"stop must be several texts, not one: ({self.stop!r},)")
