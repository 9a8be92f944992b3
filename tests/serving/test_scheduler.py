"""Scheduling with a store that remembers which content was written where."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kosmos_plugin.models.paged_cache import BLOCK_SIZE
from kosmos_plugin.serving.block_pool import BlockPool
from kosmos_plugin.serving.scheduler import Scheduler
from kosmos_plugin.serving.sequence import RunningSequence, blocks_for

LONGEST = 6 * BLOCK_SIZE
FEWEST_BLOCKS = blocks_for(LONGEST) + 1


class Machine:
    """A scheduler, and a store of content in place of keys and values."""

    def __init__(self, blocks=FEWEST_BLOCKS, sequences=4, step_tokens=20):
        self.scheduler = Scheduler(BlockPool(blocks), sequences, step_tokens)
        self.store = [[None] * BLOCK_SIZE for _ in range(blocks)]
        self.computed = 0

    def step(self):
        """Compute a step as the engine does, and check that each sequence reads its own content."""
        work = self.scheduler.next_step()
        assert sum(length for _, length in work) <= self.scheduler.step_tokens
        assert len(self.scheduler.running) <= self.scheduler.max_sequences
        for block in self.scheduler.new_blocks:
            self.store[block] = [None] * BLOCK_SIZE
        for sequence, length in work:
            for position in range(sequence.computed, sequence.computed + length):
                block = self.store[sequence.blocks[position // BLOCK_SIZE]]
                assert block[position % BLOCK_SIZE] in (None, sequence.content[position])
                block[position % BLOCK_SIZE] = sequence.content[position]
            self.computed += length
        for sequence, length in work:
            end = sequence.computed + length
            assert [self.store[sequence.blocks[i // BLOCK_SIZE]][i % BLOCK_SIZE] for i in range(end)] == (
                sequence.content[:end]
            )
        self.scheduler.advance(work)
        return [sequence for sequence, _ in work if sequence.remaining == 0]


@st.composite
def arrivals(draw):
    """(step at which it comes, its prompt, its length in the end, after how many steps it is cancelled)"""
    beginning = draw(st.sampled_from([[-7] * 40, list(range(50)), []]))
    content = [*beginning, *draw(st.lists(st.integers(0, 2), min_size=1, max_size=30))]
    end = draw(st.integers(len(content), LONGEST))
    return draw(st.integers(0, 30)), content, end, draw(st.integers(1, 20) | st.just(10_000))


@settings(max_examples=100, deadline=None)
@given(st.lists(arrivals(), min_size=1, max_size=12))
def test_every_sequence_ends_and_reads_its_own_content(arrivals):
    """Sequences with few distinct beginnings arrive at any time; some are cancelled; memory is scarce."""
    machine, ends, leaves = Machine(), {}, {}
    for number in range(3000):
        for start, content, end, patience in arrivals:
            if start == number:
                sequence = RunningSequence(list(content))
                ends[sequence], leaves[sequence] = end, number + patience
                machine.scheduler.add(sequence)
        for sequence in machine.step():
            sequence.content.append(len(sequence.content) % 3)
            if len(sequence.content) > ends[sequence]:
                machine.scheduler.remove(sequence)
                del ends[sequence]
        for sequence in [sequence for sequence in ends if leaves[sequence] == number]:
            machine.scheduler.remove(sequence)
            del ends[sequence]
        if not ends and number > 30:
            break
    assert not ends
    assert machine.scheduler.pool.in_use == 0
    assert machine.scheduler.pool.available == machine.scheduler.pool.num_blocks


def finish(machine):
    for _ in range(1000):
        for sequence in machine.step():
            machine.scheduler.remove(sequence)
        if not machine.scheduler.running and not machine.scheduler.waiting:
            return


def test_a_shared_beginning_is_read_once():
    """By sequences that come together, too: the others wait for the first."""
    machine = Machine(blocks=100, sequences=8, step_tokens=64)
    beginning = list(range(4 * BLOCK_SIZE))
    sequences = [RunningSequence([*beginning, 1000 + i]) for i in range(6)]
    for sequence in sequences:
        machine.scheduler.add(sequence)
    finish(machine)
    assert machine.computed == len(beginning) + len(sequences)
    assert [sequence.cached for sequence in sequences] == [0] + [len(beginning)] * 5


def test_the_same_prompt_again_costs_its_last_block_only():
    machine = Machine(blocks=100)
    for _ in range(2):
        machine.scheduler.add(RunningSequence(list(range(3 * BLOCK_SIZE))))
        finish(machine)
    assert machine.computed == 3 * BLOCK_SIZE + BLOCK_SIZE


def test_the_oldest_sequence_is_never_preempted():
    machine = Machine(sequences=2, step_tokens=200)
    old, new = RunningSequence([1] * (4 * BLOCK_SIZE)), RunningSequence([2] * (2 * BLOCK_SIZE))
    machine.scheduler.add(old)
    machine.scheduler.add(new)
    while len(old.content) < LONGEST:
        for sequence in machine.step():
            sequence.content.append(3)
        assert old in machine.scheduler.running
    assert machine.scheduler.preemptions > 0
    assert new in machine.scheduler.waiting


def test_a_long_prompt_does_not_stop_others():
    """Each step of a long prompt takes a token of what is being generated, too."""
    machine = Machine(blocks=100, step_tokens=20)
    short = RunningSequence([1, 2, 3])
    machine.scheduler.add(short)
    machine.step()
    machine.scheduler.add(RunningSequence(list(range(5 * BLOCK_SIZE))))
    for number in range(4):
        short.content.append(number)
        assert short in machine.step()


def test_the_least_recently_used_beginning_is_overwritten_first():
    pool = BlockPool(4)
    for name in "ab":
        blocks = pool.allocate(2)
        for number, block in enumerate(blocks):
            pool.publish(block, f"{name}{number}".encode())
        pool.release(blocks)
    pool.release(pool.acquire([b"a0", b"a1"]))  # used again
    pool.release(pool.allocate(1))
    assert [len(pool.acquire([f"{name}0".encode(), f"{name}1".encode()])) for name in "ab"] == [2, 1]


@pytest.mark.parametrize("length", [1, BLOCK_SIZE, BLOCK_SIZE + 1, 5 * BLOCK_SIZE])
def test_keys_stand_for_all_content_before(length):
    content = list(range(length))
    keys = RunningSequence(content).keys()
    assert len(keys) == length // BLOCK_SIZE
    for changed in range(length):
        other = RunningSequence([-1 if i == changed else token for i, token in enumerate(content)]).keys()
        assert [ours == theirs for ours, theirs in zip(keys, other, strict=True)] == [
            number < changed // BLOCK_SIZE for number in range(len(keys))
        ]
    growing = RunningSequence([])
    for token in content:
        growing.content.append(token)
        growing.keys()
    assert growing.keys() == keys
