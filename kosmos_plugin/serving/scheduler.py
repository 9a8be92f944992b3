"""What the model computes in the next step.

Each step takes one token of every sequence that is being generated, and of prompts as many tokens as fit in the step's
limit: first of those that have begun, then of those that wait. So a new request joins while others are generated, and a
long prompt delays them by no more than a step.

    waiting ──admitted: its prompt fits in the free blocks──▶ running ──removed──▶ gone
       ▲                                                         │
       └──────preempted: no block is free for an older one───────┘

A preempted sequence is read again later, mostly from the cache. The oldest one is never preempted, so all end.
"""

from collections import deque
from typing import NamedTuple

from kosmos_plugin.models.paged_cache import BLOCK_SIZE
from kosmos_plugin.serving.block_pool import BlockPool
from kosmos_plugin.serving.sequence import RunningSequence, blocks_for


class Work(NamedTuple):
    """A sequence's part of a step: its next `length` positions."""

    sequence: RunningSequence
    length: int


class Scheduler:
    """The sequences that wait and those that run.

    Args:
        pool: The blocks of the KV cache. One sequence of the model's greatest length must fit.
        max_sequences: How many run at the same time.
        step_tokens: How many positions a step computes at most; not fewer than `max_sequences`.
    """

    def __init__(self, pool: BlockPool, max_sequences: int, step_tokens: int):
        assert step_tokens >= max_sequences
        self.pool = pool
        self.max_sequences = max_sequences
        self.step_tokens = step_tokens
        self.waiting: deque[RunningSequence] = deque()
        self.running: list[RunningSequence] = []  # the oldest first
        self.new_blocks: list[int] = []  # allocated for the step, with no content yet
        self.preemptions = 0
        self.shared_positions = 0  # that sequences found in the cache when they began

    def add(self, sequence: RunningSequence) -> None:
        """Let a sequence wait for its turn."""
        self.waiting.append(sequence)

    def remove(self, sequence: RunningSequence) -> None:
        """A sequence has ended or is not wanted any more: its place and its blocks are free."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def next_step(self) -> list[Work]:
        """The next step's work, with blocks for all of its positions; empty if there is nothing to do."""
        self.new_blocks = []
        work: dict[RunningSequence, int] = {}
        left = self.step_tokens
        for sequence in sorted(self.running, key=lambda sequence: sequence.remaining > 1):  # stable
            length = min(sequence.remaining, left)
            if length and sequence in self.running and self._make_room(sequence, length, work):
                work[sequence] = length
                left = self.step_tokens - sum(work.values())
        self._admit(work, left)
        return [Work(sequence, length) for sequence, length in work.items()]

    def advance(self, work: list[Work]) -> None:
        """The step is computed: its positions are in the cache, and full blocks can be shared."""
        for sequence, length in work:
            first = sequence.computed // BLOCK_SIZE
            sequence.computed += length
            full = sequence.computed // BLOCK_SIZE
            for block, key in zip(sequence.blocks[first:full], sequence.keys()[first:full], strict=True):
                self.pool.publish(block, key)

    def _admit(self, work: dict[RunningSequence, int], left: int) -> None:
        """Let those that wait begin, in their order, while there is room."""
        if not self.waiting:
            return
        in_progress = {key for running in self.running for key in running.keys()[running.computed // BLOCK_SIZE :]}
        for sequence in list(self.waiting):
            if left == 0 or len(self.running) == self.max_sequences:
                return
            # At least one position is read, whose hidden state predicts the next token.
            keys = sequence.keys()[: (len(sequence.content) - 1) // BLOCK_SIZE]
            blocks = self.pool.acquire(keys)
            if len(blocks) < len(keys) and keys[len(blocks)] in in_progress:
                self.pool.release(blocks)
                continue  # another one is reading the same: it is shared when it is done
            needed = blocks_for(len(sequence.content)) - len(blocks)
            if needed + len(self.running) > self.pool.available:  # each of the others may soon need a block
                self.pool.release(blocks)
                return
            self.waiting.remove(sequence)
            self.running.append(sequence)
            sequence.blocks, sequence.computed = blocks, len(blocks) * BLOCK_SIZE
            if sequence.cached is None:
                sequence.cached = sequence.computed
                self.shared_positions += sequence.computed
            in_progress.update(keys[len(blocks) :])
            self._allocate(sequence, sequence.remaining)
            work[sequence] = min(sequence.remaining, left)
            left -= work[sequence]

    def _make_room(self, sequence: RunningSequence, length: int, work: dict[RunningSequence, int]) -> bool:
        """Give a sequence the blocks for `length` more positions; False if it has to wait instead."""
        while blocks_for(sequence.computed + length) - len(sequence.blocks) > self.pool.available:
            newest = self.running.pop()
            self._release(newest)
            self.waiting.appendleft(newest)
            self.preemptions += 1
            work.pop(newest, None)
            if newest is sequence:
                return False
        self._allocate(sequence, length)
        return True

    def _allocate(self, sequence: RunningSequence, length: int) -> None:
        new = self.pool.allocate(max(0, blocks_for(sequence.computed + length) - len(sequence.blocks)))
        sequence.blocks += new
        self.new_blocks += new

    def _release(self, sequence: RunningSequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks, sequence.computed = [], 0
