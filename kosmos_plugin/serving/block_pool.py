"""Which blocks of the KV cache are in use, and which hold a beginning that a later request may share.

    free ──allocate──▶ in use ──release──▶ cached, if its content has a key ──allocate (least recently used)──▶ in use
      ▲                   ▲  │                         │
      └──release, no key──┼──┘                         │
                          └────────acquire─────────────┘

A block's key stands for the content of the block and of all blocks before it, so equal keys mean equal beginnings. A
beginning is released from its end, so that of a beginning that is used no more, the end is overwritten first.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """The blocks 0 … N − 1 of a PagedCache.

    Args:
        num_blocks: N.
    """

    def __init__(self, num_blocks: int):
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks))
        self._cached: OrderedDict[int, None] = OrderedDict()  # used by no sequence, the least recently used first
        self._users = [0] * num_blocks
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """Blocks that can be allocated."""
        return len(self._free) + len(self._cached)

    @property
    def in_use(self) -> int:
        """Blocks of sequences that are being generated."""
        return self.num_blocks - self.available

    @property
    def cached(self) -> int:
        """Blocks that no sequence uses, but that a later one may share."""
        return len(self._cached)

    def acquire(self, keys: Iterable[bytes]) -> list[int]:
        """The blocks of the longest known beginning of `keys`, which are in use from now on."""
        found = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            self._cached.pop(block, None)
            self._users[block] += 1
            found.append(block)
        return found

    def allocate(self, count: int) -> list[int]:
        """`count` blocks of no content, of which there must be as many available."""
        assert count <= self.available
        blocks = []
        for _ in range(count):
            if self._free:
                block = self._free.pop()
            else:
                block, _ = self._cached.popitem(last=False)
                del self._block_of[self._key_of.pop(block)]
            self._users[block] = 1
            blocks.append(block)
        return blocks

    def publish(self, block: int, key: bytes) -> None:
        """A block in use is full: others may share it. Of two blocks with equal content only the first is shared."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def release(self, blocks: Sequence[int]) -> None:
        """A sequence uses its blocks no more."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block] == 0:
                if block in self._key_of:
                    self._cached[block] = None
                else:
                    self._free.append(block)
