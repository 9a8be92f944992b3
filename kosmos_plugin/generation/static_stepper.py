"""Steps of fixed shapes in place of a growing cache: what a GPU decodes with."""

from collections.abc import Sequence

import torch

from kosmos_plugin.generation.decoding_state import DecodingState
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.generation.sampling import Choice
from kosmos_plugin.generation.static_step import StaticStep, rounded_shape, static_steps
from kosmos_plugin.generation.stepper import Stepper, chosen, read
from kosmos_plugin.generation.token_trie import TokenTrie
from kosmos_plugin.vocabulary import Vocabulary

# Steps between two readings. Of a text that has ended, up to so many steps less one are in vain; a reading costs
# the GPU a few percent of a step.
STEPS_AT_ONCE = 4


def make_stepper(
    state: DecodingState,
    last: torch.Tensor,
    vocabulary: Vocabulary,
    options: SearchOptions,
    allowed: TokenTrie | None = None,
) -> Stepper:
    """The stepper of the state's device; the arguments are those of `search`."""
    if uses_static_shapes(last.device):
        # Each prompt has as many rows as it has beams, and one for the greedy path.
        beams = 1 if options.beam == 1 else options.beam + 1
        shape = rounded_shape(len(last), beams, state.length, options.max_new_tokens)
        step = static_steps(state.model, vocabulary.pad).of(shape)
        if step is not None:
            return StaticStepper(step, state, last, vocabulary, options.stop, allowed)
    return Stepper(state, last, vocabulary, options.stop, allowed)


def uses_static_shapes(device: torch.device) -> bool:
    """Whether a device decodes in steps of fixed shapes; a CPU gains nothing from them."""
    return device.type == "cuda"


class StaticStepper(Stepper):
    """A Stepper whose rows are among the B·G beams of a static step. Beams without a row are computed in vain.

    Args:
        step: A step with room for the prompts, for the rows of each and for all tokens to generate.
        state: As for Stepper, as are the others.
        last: The hidden states [B, E].
        vocabulary: The vocabulary.
        stop: Text that ends generation.
        allowed: The only sequences that may be generated.
    """

    def __init__(
        self,
        step: StaticStep,
        state: DecodingState,
        last: torch.Tensor,
        vocabulary: Vocabulary,
        stop: Sequence[str] = (),
        allowed: TokenTrie | None = None,
    ):
        super().__init__(state, last, vocabulary, stop, allowed)
        self.step = step
        self.step.start(self.state.cache, self.log_probs)
        self.beams = [prompt * step.shape.beams for prompt in range(len(last))]  # of the rows, among the B·G

    def likeliest(self, count: int, prefixes: Sequence[Sequence[int]]) -> tuple[list[list[float]], list[list[int]]]:
        """See Stepper."""
        if self.allowed is not None:
            self.log_probs = self.step.log_probs[self.beams]
            return super().likeliest(count, prefixes)
        values, tokens = read(*self.step.log_probs.topk(min(count, self.step.log_probs.size(-1))))
        return [values[beam] for beam in self.beams], [tokens[beam] for beam in self.beams]

    def choose(
        self, choice: Choice, prefixes: Sequence[Sequence[int]], first: int, limit: int
    ) -> list[tuple[list[float], list[int]]]:
        """See Stepper."""
        if self.stop or self.allowed is not None:  # the CPU has to look at each token
            self.log_probs = self.step.log_probs[self.beams]
            return super().choose(choice, prefixes, first, limit)
        steps = [chosen(choice, self.step.log_probs, first)]
        for number in range(first + 1, min(first + STEPS_AT_ONCE, limit)):
            self.step.continue_with(steps[-1][1])
            steps.append(chosen(choice, self.step.log_probs, number))
        values, tokens = read(*(torch.stack(each) for each in zip(*steps, strict=True)))
        return [
            ([step_values[beam] for beam in self.beams], [step_tokens[beam] for beam in self.beams])
            for step_values, step_tokens in zip(values, tokens, strict=True)
        ]

    def advance(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """See Stepper. A row and those that continue it belong to one prompt."""
        beams_per_prompt = self.step.shape.beams
        used = [0] * self.step.shape.prompts
        next_tokens, parents = ([0] * (beams_per_prompt * self.step.shape.prompts) for _ in range(2))
        advanced = []
        for row, token in zip(rows, tokens, strict=True):
            prompt, beam = divmod(self.beams[row], beams_per_prompt)
            place = prompt * beams_per_prompt + used[prompt]
            used[prompt] += 1
            next_tokens[place], parents[place] = token, beam
            advanced.append(place)
        self.step.run(next_tokens, parents)
        self.beams = advanced
