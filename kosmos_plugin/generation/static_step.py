"""A decoding step of fixed shapes at fixed addresses, which a GPU repeats as a CUDA graph.

A step of a small batch is hundreds of small kernels. Launched one by one they take longer than they run; a graph
launches all at once. It can repeat only what it recorded, so sizes are rounded up to few: the prompts to a power of
two, the longest prompt to a multiple of PROMPT_LENGTHS, the steps to a multiple of STEPS.
"""

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch

from kosmos_plugin.generation.stepper import log_probabilities
from kosmos_plugin.models.decoder import KosmosDecoder
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.models.kv_cache import KeyValueCache
from kosmos_plugin.models.static_cache import CacheShape, StaticCache

PROMPT_LENGTHS = 128
STEPS = 32
MAX_GRAPHS = 16  # of a model; the one that was not used for longest makes room


def rounded_shape(prompts: int, beams: int, prompt_length: int, steps: int) -> CacheShape:
    """The smallest of the shapes in use that holds the given numbers."""
    return CacheShape(
        1 << (prompts - 1).bit_length(),
        beams,
        -(-prompt_length // PROMPT_LENGTHS) * PROMPT_LENGTHS,
        -(-steps // STEPS) * STEPS,
    )


class StaticStep:
    """One more token for each of B prompts' G beams: token → log-probabilities of the next.

    Args:
        decoder: The decoder.
        shape: B, G, the longest prompt and the number of steps.
        pad: The id of `<pad>`, which is never generated.
        store: Where to keep keys and values, [layers, 2, B, H, S, D].

    Attributes:
        log_probs: Float32 [B·G, V], of the next token of each beam.
        normalizers: Float32 [B·G, 1]; added to `log_probs` they give logits.
    """

    def __init__(self, decoder: KosmosDecoder, shape: CacheShape, pad: int, store: torch.Tensor):
        self.decoder = decoder
        self.shape = shape
        self.pad = pad
        rows, words = shape.prompts * shape.beams, len(decoder.embed_tokens.weight)
        self.log_probs = torch.zeros(rows, words, device=store.device)
        self.normalizers = torch.zeros(rows, 1, device=store.device)
        self._own_beams = torch.arange(shape.beams, device=store.device)
        self.inputs = torch.zeros(2, rows, dtype=torch.int64, device=store.device)  # tokens and parents, as for `run`
        # The same, as the CPU makes them; they may be written again once a result of the step was read.
        self._inputs = torch.zeros(2, rows, dtype=torch.int64)
        self.cache = StaticCache(shape, store, self.inputs[1].view(shape.prompts, shape.beams))
        self.graph: torch.cuda.CUDAGraph | None = None

    def capture(self, pool: Any) -> None:
        """Record the step as a CUDA graph with the memory of `pool`, before the first prompts are loaded."""
        self._inputs = self._inputs.pin_memory()  # so that copying them does not wait
        with torch.cuda.device(self.inputs.device):
            # Once outside the graph, where libraries may load kernels and allocate their workspaces.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.compute()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                self.compute()
        self.graph = graph

    def start(
        self, prompts: KeyValueCache, log_probs: torch.Tensor, normalizers: torch.Tensor, copies: int = 1
    ) -> None:
        """Load prompts, and the predictions of their next tokens into their first beams.

        Args:
            prompts: Rows of one or more copies of each prompt.
            log_probs: Of their next tokens [rows, V].
            normalizers: See StaticStep [rows, 1].
            copies: Rows of each prompt.
        """
        self.cache.load(prompts, copies)
        for predictions, new in ((self.log_probs, log_probs), (self.normalizers, normalizers)):
            of_beams = predictions.view(self.shape.prompts, self.shape.beams, -1)
            of_beams[: len(new) // copies, :copies] = new.view(-1, copies, new.size(1))
        self.inputs.zero_()
        self.inputs[1].view(self.shape.prompts, self.shape.beams).copy_(self._own_beams)

    def run(self, tokens: Sequence[int], parents: Sequence[int]) -> None:
        """Append a token to each beam. Nothing is waited for: after the call a GPU still computes.

        Args:
            tokens: B·G tokens.
            parents: For each, the number of the beam of its prompt that it continues, below G.
        """
        self._inputs.copy_(torch.tensor((tokens, parents)))
        self.inputs.copy_(self._inputs, non_blocking=True)
        self._repeat()

    def continue_with(self, tokens: torch.Tensor) -> None:
        """Append to each beam, in its place, the token [B·G] that the device has chosen."""
        self.inputs[0] = tokens
        self._repeat()

    def _repeat(self) -> None:
        if self.graph is None:
            self.compute()
        else:
            self.graph.replay()

    def compute(self) -> None:
        """What a graph records: `inputs` → `log_probs`, with all tensors in their places."""
        tokens = self.inputs[0].unsqueeze(1)
        hidden = self.decoder.extend(self.decoder.embed_tokens(tokens), self.cache)[:, -1]
        for predictions, new in zip(
            (self.log_probs, self.normalizers), log_probabilities(self.decoder, hidden, self.pad), strict=True
        ):
            predictions.copy_(new)


class StaticSteps:
    """The steps of one model, by their shape. They share one store, so only the latest one is in use.

    Args:
        decoder: The decoder.
        pad: The id of `<pad>`.
    """

    def __init__(self, decoder: KosmosDecoder, pad: int):
        self.decoder = decoder
        self.pad = pad
        self.addresses = _addresses(decoder)
        self._store = decoder.embed_tokens.weight.new_empty(0)
        self._steps: OrderedDict[CacheShape, StaticStep] = OrderedDict()
        self.user: weakref.ref[Any] | None = None  # the stepper that started last
        # What a step computes on its way is overwritten by the next one, whichever graph that is.
        self._pool = _new_pool(self._store.device)

    def in_use(self) -> bool:
        """Whether a text is still being generated, of a stream that was not closed."""
        return self.user is not None and self.user() is not None

    def of(self, shape: CacheShape) -> StaticStep | None:
        """The step of a shape; None if its keys and values do not fit in the device's memory."""
        if shape not in self._steps:
            decoder = self.decoder
            heads = decoder.args.decoder_attention_heads
            store_shape = torch.Size((decoder.num_layers, 2, shape.prompts, heads, shape.keys, decoder.head_dim))
            if not self._reserve(store_shape.numel()):
                return None
            if len(self._steps) == MAX_GRAPHS:
                self._steps.popitem(last=False)
            store = self._store[: store_shape.numel()].view(store_shape)
            step = StaticStep(decoder, shape, self.pad, store)
            if store.is_cuda:
                step.capture(self._pool)
            self._steps[shape] = step
        self._steps.move_to_end(shape)
        return self._steps[shape]

    def _reserve(self, size: int) -> bool:
        """Make the store hold `size` numbers, if there is memory for it."""
        if size > len(self._store):
            self._steps.clear()  # their graphs know the old store's address
            self._store = self._store.new_empty(0)
            self._pool = _new_pool(self._store.device)
            if self._store.is_cuda and size * self._store.itemsize > _free_memory(self._store.device) / 2:
                return False
            self._store = self._store.new_empty(size)
        return True


_steps_of_model: WeakKeyDictionary[Kosmos, StaticSteps] = WeakKeyDictionary()


def static_steps(model: Kosmos, pad: int) -> StaticSteps:
    """The steps of a model; new ones if its weights have moved since, to another device for example."""
    steps = _steps_of_model.get(model)
    if steps is None or steps.addresses != _addresses(model.decoder):
        steps = _steps_of_model[model] = StaticSteps(model.decoder, pad)
    return steps


def _new_pool(device: torch.device) -> Any:
    """Memory for graphs; torch does not take one that graphs have had before and have no more."""
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None


def _addresses(decoder: KosmosDecoder) -> list[tuple[torch.device, torch.dtype, int]]:
    return [(weight.device, weight.dtype, weight.data_ptr()) for weight in decoder.parameters()]


def _free_memory(device: torch.device) -> int:
    """Bytes that can be allocated, those included that torch keeps for itself."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
