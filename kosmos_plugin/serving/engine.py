"""The engine: one thread that generates the texts of all requests at once.

submit ──▶ scheduler: which positions of which sequences a step computes
             → embeddings of tokens and images [1, M, E] → decoder with the cache in blocks → hidden states [M, E]
               → log-probabilities of the sequences that are read to their end → a token for each
                 → its text, to the listener of the request ──▶ again, until all have ended

A request's texts do not depend on the requests beside it: each sequence has its own options and random numbers.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kosmos_plugin.generation.ending import Ending
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.generation.penalties import penalize
from kosmos_plugin.generation.results import TokenProbs
from kosmos_plugin.generation.sampling import Filters, draw, uniform_numbers
from kosmos_plugin.generation.stepper import described, log_probabilities, read, with_likeliest
from kosmos_plugin.generation.text_stream import TextStream
from kosmos_plugin.models.paged_cache import PagedCache, Span
from kosmos_plugin.serving.block_pool import BlockPool
from kosmos_plugin.serving.image_cache import ImageCache
from kosmos_plugin.serving.options import EngineOptions
from kosmos_plugin.serving.prompt import Prompt
from kosmos_plugin.serving.scheduler import Scheduler, Work
from kosmos_plugin.serving.sequence import RunningSequence, blocks_for

logger = logging.getLogger(__name__)


class QueueFull(Exception):
    """More requests wait than are allowed."""


class EngineFailed(Exception):
    """A step failed, and with it the requests that were part of it."""


@dataclass(frozen=True)
class Token:
    """A token of one of a request's texts, as the listener gets it."""

    choice: int  # the number of the text
    token: int
    logprobs: TokenProbs  # its log-probability, and the likeliest tokens in its place, if they were asked for
    text: str  # what can be shown since the token before, often nothing
    finish_reason: str | None  # "stop" or "length" at the last token


Listener = Callable[[Token | EngineFailed], None]
"""Gets each token, in the thread of the engine, and must not take long. After EngineFailed nothing follows."""


class _Sequence(RunningSequence):
    """One text of a request."""

    def __init__(self, request: "Request", choice: int, prompt: Prompt, options: SearchOptions, number: int):
        super().__init__(prompt.content.tolist())
        self.request = request
        self.choice = choice
        self.prompt = prompt
        self.options = options
        self.random = uniform_numbers(options, number)
        self.text = TextStream(request.ending.vocabulary, options.stop)
        self.generated = 0

    def add(self, token: int, logprobs: TokenProbs) -> Token:
        """Append a token."""
        self.content.append(token)
        self.generated += 1
        text = self.text.add(token)
        reason = None
        if token in self.request.ending.tokens or self.text.stopped_by is not None:
            reason = "stop"
        elif self.generated == self.options.max_new_tokens:
            reason = "length"
        if reason is not None:
            text += self.text.end()
        return Token(self.choice, token, logprobs, text, reason)


class Request:
    """A request that was submitted."""

    def __init__(self, prompts: Sequence[Prompt], options: SearchOptions, n: int, ending: Ending, listener: Listener):
        self.ending = ending
        self.listener = listener
        self.sequences = [
            _Sequence(self, which * n + number, prompt, options, number)
            for which, prompt in enumerate(prompts)
            for number in range(n)
        ]
        self.unfinished = len(self.sequences)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompts that were in the cache when the first text of each began."""
        per_prompt: dict[int, int] = {}
        for sequence in self.sequences:
            per_prompt.setdefault(id(sequence.prompt), sequence.cached or 0)
        return sum(per_prompt.values())


@dataclass
class Counters:
    """What an engine has done since it started."""

    prompt_tokens: int = 0  # of all prompts
    computed_tokens: int = 0  # positions that went through the decoder
    generated_tokens: int = 0
    steps: int = 0
    cancelled: int = 0  # requests
    failed: int = 0  # requests


class Engine:
    """Generates many requests at once. Use it as a context: its thread ends with it.

    Args:
        kosmos: The model.
        options: How much it does and keeps at once.

    Attributes:
        counters: What it has done.
    """

    def __init__(self, kosmos: Generator, options: EngineOptions):
        self.kosmos = kosmos
        self.options = options
        self.counters = Counters()
        decoder = kosmos.model.decoder
        positions = kosmos.model.max_positions()
        tokens = options.kv_cache_tokens or 8 * positions
        num_blocks = max(blocks_for(tokens), blocks_for(positions) + 1)
        heads, weight = decoder.args.decoder_attention_heads, decoder.embed_tokens.weight
        self.cache = PagedCache(decoder.num_layers, num_blocks, heads, decoder.head_dim, weight)
        self.images = ImageCache(kosmos.model)
        step_tokens = max(options.step_tokens, options.max_sequences)
        self.scheduler = Scheduler(BlockPool(num_blocks), options.max_sequences, step_tokens)
        self._wake = threading.Condition()
        self._submitted: list[Request] = []
        self._cancelled: list[Request] = []
        self._active: set[Request] = set()  # that have not ended
        self._unfinished = 0  # sequences
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="kosmos-engine", daemon=True)

    def __enter__(self) -> "Engine":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    @property
    def unfinished(self) -> int:
        """Texts that are being generated or wait."""
        return self._unfinished

    def submit(self, prompts: Sequence[Prompt], options: SearchOptions, n: int, listener: Listener) -> Request:
        """Let prompts be continued. Returns at once.

        Args:
            prompts: The prompts, with room for the new tokens in the model's positions.
            options: Greedy search or sampling, and when to stop.
            n: How many texts for each prompt. The texts of the first prompt come first.
            listener: Gets the tokens.

        Raises:
            QueueFull: Too many others wait.
            EngineFailed: The engine has stopped.
            UserError: A stop token is not in the vocabulary.
        """
        longest = max(len(prompt) for prompt in prompts)
        assert options.num_beams == 1 and longest + options.max_new_tokens <= self.kosmos.model.max_positions()
        request = Request(prompts, options, n, Ending(self.kosmos.vocabulary, options), listener)
        with self._wake:
            if self._stopping:
                raise EngineFailed("The engine has stopped.")
            if self._unfinished + request.unfinished > self.options.max_sequences + self.options.max_queue:
                raise QueueFull
            self._unfinished += request.unfinished
            self._active.add(request)
            self._submitted.append(request)
            self._wake.notify()
        return request

    def cancel(self, request: Request) -> None:
        """Give up a request: no token follows after the step that is being computed. It may have ended already."""
        with self._wake:
            self._cancelled.append(request)
            self._wake.notify()

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                self._generate()
        finally:  # whatever has stopped it: nobody waits for ever
            with self._wake:
                self._stopping = True
                left = list(self._active)
            for request in left:
                self._fail(request, "The engine has stopped.")

    def _generate(self) -> None:
        while True:
            with self._wake:
                while not (self._submitted or self._cancelled or self._stopping or self._has_work()):
                    self._wake.wait()
                submitted, self._submitted = self._submitted, []
                cancelled, self._cancelled = self._cancelled, []
                if self._stopping:
                    return
            for request in submitted:
                for sequence in request.sequences:
                    self.scheduler.add(sequence)
                prompts = {id(sequence.prompt): len(sequence.prompt) for sequence in request.sequences}
                self.counters.prompt_tokens += sum(prompts.values())
            for request in cancelled:
                self.counters.cancelled += request.unfinished > 0
                self._end(request)
            work = self.scheduler.next_step()
            try:
                self._step(work)
            except Exception as error:  # out of memory, for example: the requests of this step fail, others go on
                logger.exception("A step of the engine failed")
                for request in {_own(sequence).request: None for sequence, _ in work}:
                    self._fail(request, str(error))

    def _has_work(self) -> bool:
        return bool(self.scheduler.running or self.scheduler.waiting)

    def _end(self, request: Request) -> None:
        """Free the places of those of a request's texts that have not ended."""
        for sequence in request.sequences:
            self.scheduler.remove(sequence)
        with self._wake:
            self._unfinished -= request.unfinished
            self._active.discard(request)
        request.unfinished = 0

    def _fail(self, request: Request, why: str) -> None:
        """End a request and tell its listener."""
        self.counters.failed += 1
        self._end(request)
        try:
            request.listener(EngineFailed(why))
        except Exception:
            logger.exception("A listener failed")

    def _step(self, work: list[Work]) -> None:
        """Compute the next positions of some sequences, and the next token of those that are read to their end."""
        if not work:
            return
        self.cache.clear(self.scheduler.new_blocks)
        step = self.cache.step([Span(sequence.blocks, sequence.computed, length) for sequence, length in work])
        decoder = self.kosmos.model.decoder
        hidden = decoder.extend(self._embed(work).unsqueeze(0), step)[0]
        self.scheduler.advance(work)
        self.counters.steps += 1
        self.counters.computed_tokens += sum(length for _, length in work)
        rows = [row for row, (sequence, _) in enumerate(work) if sequence.remaining == 0]
        if not rows:
            return
        last = hidden[step.last_index[rows].to(hidden.device)]
        log_probs, normalizers = log_probabilities(decoder, last, self.kosmos.vocabulary.pad)
        sequences = [_own(work[row].sequence) for row in rows]
        for sequence, (token, logprobs) in zip(sequences, choose(log_probs, normalizers, sequences), strict=True):
            self._deliver(sequence, sequence.add(token, logprobs))
        self.counters.generated_tokens += len(sequences)

    def _deliver(self, sequence: _Sequence, token: Token) -> None:
        request = sequence.request
        if token.finish_reason is not None:
            self.scheduler.remove(sequence)
            request.unfinished -= 1
            with self._wake:
                self._unfinished -= 1
                if request.unfinished == 0:
                    self._active.discard(request)
        try:
            request.listener(token)
        except Exception:  # it has gone, with its event loop for example
            logger.exception("A listener failed")
            self._end(request)

    def _embed(self, work: list[Work]) -> torch.Tensor:
        """The decoder's input [M, E] for the next positions: embeddings of tokens, and of images in their slots."""
        model = self.kosmos.model
        content = np.concatenate(
            [sequence.content[sequence.computed : sequence.computed + length] for sequence, length in work]
        )
        is_slot = content < 0
        tokens = torch.from_numpy(np.where(is_slot, self.kosmos.vocabulary.pad, content))
        embeddings = model.decoder.embed_tokens(tokens.to(self.kosmos.device))
        if not is_slot.any():
            return embeddings
        # The image slots that are read, by image: [first, last) of its K.
        parts: list[tuple[bytes, int, int]] = []
        pixels = {}
        for sequence, length in work:
            prompt, end = _own(sequence).prompt, sequence.computed + length
            if sequence.computed >= len(prompt):
                continue
            first = prompt.slots[sequence.computed]
            last = prompt.slots[end] if end < len(prompt) else prompt.slots[-1] + (prompt.content[-1] < 0)
            size = model.config.image_tokens
            for number in range(first // size, -(-last // size)):
                image = prompt.images[number]
                pixels[image.digest] = image.pixels
                begin = number * size
                parts.append((image.digest, max(first, begin) - begin, min(last, begin + size) - begin))
        table = self.images.embed(pixels)
        slots = torch.cat([table[digest][first:last] for digest, first, last in parts]).to(embeddings.dtype)
        return embeddings.index_copy(0, torch.from_numpy(is_slot.nonzero()[0]).to(embeddings.device), slots)


def choose(
    log_probs: torch.Tensor, normalizers: torch.Tensor, sequences: Sequence[_Sequence]
) -> list[tuple[int, TokenProbs]]:
    """The next token of each sequence, by its own options.

    Args:
        log_probs: Float32 [R, V].
        normalizers: What makes them logits when added, float32 [R, 1].
        sequences: The R sequences.
    """
    options, scores = [sequence.options for sequence in sequences], log_probs
    if any(one.looks_back for one in options):
        # A repetition penalty is one of logits, whose sign counts.
        of_logits = torch.tensor([[one.repetition_penalty != 1] for one in options], device=scores.device)
        scores = torch.where(of_logits, scores + normalizers, scores)
        scores = penalize(scores, [np.array(sequence.content) for sequence in sequences], options)
    tokens = scores.argmax(dim=-1)
    drawn = [row for row, one in enumerate(options) if one.samples]
    if drawn:
        rows = torch.tensor(drawn, device=scores.device)
        uniform = torch.tensor([sequences[row].random.random() for row in drawn], dtype=torch.float64)
        filters = Filters.of([options[row] for row in drawn], scores.device)
        tokens[rows] = draw(scores[rows], filters, uniform.to(scores.device))
    most = max(one.top_logprobs for one in options)
    found = described(*read(*with_likeliest(log_probs, tokens.unsqueeze(1), most)))
    return [
        (token, (logprob, top[: one.top_logprobs])) for one, (token, (logprob, top)) in zip(options, found, strict=True)
    ]


def _own(sequence: RunningSequence) -> _Sequence:
    assert isinstance(sequence, _Sequence)
    return sequence
