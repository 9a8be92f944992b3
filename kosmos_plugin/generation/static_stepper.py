"""Steps of fixed shapes in place of a growing cache: what a GPU decodes with."""

import weakref
from collections.abc import Sequence

import numpy as np
import torch

from kosmos_plugin.generation.decoding_state import DecodingState
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.generation.results import TokenProbs
from kosmos_plugin.generation.sampling import Choice
from kosmos_plugin.generation.static_step import StaticStep, rounded_shape, static_steps
from kosmos_plugin.generation.stepper import Row, Stepper, described, read, with_likeliest
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
    prompts: Sequence[np.ndarray] = (),
    allowed: TokenTrie | None = None,
    in_place: bool = False,
) -> Stepper:
    """The stepper of the state's device; the arguments are those of `search`.

    `in_place` is for one sequence: the state itself is extended by what is generated, at the latest by `finish`.
    """
    copies = options.n if options.num_beams == 1 else 1
    in_place = in_place and options.num_beams == 1
    if uses_static_shapes(last.device):
        # Each prompt has as many rows as it has beams or samples, and perhaps one for the greedy path.
        beams = max(copies, options.num_beams + options.keep_greedy)
        steps = static_steps(state.model, vocabulary.pad)
        shape = rounded_shape(len(last), beams, state.length, options.max_new_tokens)
        step = None if steps.in_use() else steps.of(shape)
        if step is not None:
            stepper = StaticStepper(step, state, last, vocabulary, options, prompts, copies, allowed, in_place)
            steps.user = weakref.ref(stepper)
            return stepper
    return Stepper(state, last, vocabulary, options, prompts, copies, allowed, in_place)


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
        options: Penalties, and the log-probabilities to give.
        prompts: The tokens of each prompt.
        copies: Rows that begin with each prompt.
        allowed: The only sequences that may be generated.
        in_place: Let `finish` extend the state, of one row, by the tokens that were appended.
    """

    def __init__(
        self,
        step: StaticStep,
        state: DecodingState,
        last: torch.Tensor,
        vocabulary: Vocabulary,
        options: SearchOptions,
        prompts: Sequence[np.ndarray] = (),
        copies: int = 1,
        allowed: TokenTrie | None = None,
        in_place: bool = False,
    ):
        super().__init__(state, last, vocabulary, options, prompts, copies, allowed)
        self.extended = state if in_place else None
        self.appended = 0  # tokens of each sequence
        self.step = step
        self.step.start(self.state.cache, self.log_probs, self.normalizers, copies)
        beams = step.shape.beams
        self.beams = [row // copies * beams + row % copies for row in range(len(self.log_probs))]  # among the B·G
        # The sequence in each beam, for a choice of all; those without one do as the last prompt's.
        prompt = torch.arange(step.shape.prompts).clamp(max=len(last) - 1).unsqueeze(1)
        sequences = prompt * copies + torch.arange(beams).clamp(max=copies - 1)
        self.sequences = sequences.flatten().to(last.device)

    def likeliest(self, count: int, rows: Sequence[Row]) -> tuple[list[list[float]], list[list[int]]]:
        """See Stepper."""
        if self.allowed is not None or self.options.looks_back:
            self._take_predictions()
            return super().likeliest(count, rows)
        values, tokens = read(*self.step.log_probs.topk(min(count, self.step.log_probs.size(-1))))
        return [values[beam] for beam in self.beams], [tokens[beam] for beam in self.beams]

    def measure(self, tokens: Sequence[Sequence[int]]) -> list[list[TokenProbs]]:
        """See Stepper."""
        self._take_predictions()
        return super().measure(tokens)

    def choose(self, choice: Choice, rows: Sequence[Row], limit: int) -> list[list[tuple[int, TokenProbs]]]:
        """See Stepper."""
        if self.options.stop or self.options.looks_back or self.allowed is not None:  # the CPU has to see each token
            self._take_predictions()
            return super().choose(choice, rows, limit)
        first = len(rows[0].tokens)
        steps: list[tuple[torch.Tensor, torch.Tensor]] = []
        for number in range(first, min(first + STEPS_AT_ONCE, limit)):
            if steps:
                self.step.continue_with(steps[-1][1][:, 0])
                self.appended += 1
            tokens = choice(self.step.log_probs, self.sequences, number).unsqueeze(1)
            steps.append(with_likeliest(self.step.log_probs, tokens, self.options.top_logprobs))
        values, found = read(*(torch.stack(each) for each in zip(*steps, strict=True)))
        return [
            described([step_values[beam] for beam in self.beams], [step_tokens[beam] for beam in self.beams])
            for step_values, step_tokens in zip(values, found, strict=True)
        ]

    def advance(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """See Stepper. A row and those that continue it belong to one prompt; the first of them keeps its beam."""
        beams = self.step.shape.beams
        free = [list(range(beams)) for _ in range(self.step.shape.prompts)]
        next_tokens, parents = ([0] * (beams * self.step.shape.prompts) for _ in range(2))
        advanced = []
        for row, token in zip(rows, tokens, strict=True):
            prompt, beam = divmod(self.beams[row], beams)
            place = beam if beam in free[prompt] else free[prompt][0]
            free[prompt].remove(place)
            place += prompt * beams
            next_tokens[place], parents[place] = token, beam
            advanced.append(place)
        self.step.run(next_tokens, parents)
        self.appended += 1
        self.beams = advanced

    def finish(self) -> None:
        """See Stepper."""
        if self.extended is not None and self.appended > 0:
            self.extended.cache.append(self.step.cache.of_steps(self.appended))

    def _take_predictions(self) -> None:
        """Take the rows' predictions out of the step's."""
        self.log_probs, self.normalizers = self.step.log_probs[self.beams], self.step.normalizers[self.beams]
