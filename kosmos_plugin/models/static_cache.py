"""KV cache of fixed shape at fixed addresses, for decoding steps that a CUDA graph can repeat.

Each prompt has G beams, which share its keys and values. A step adds one key of each beam to those of the prompt, and
no key is ever moved: what differs between beams is only which keys they see.

    keys of prompt b    prompt, P positions, padded │ step 0, G beams │ step 1, G beams │ … │ step N − 1
    beam g sees         its tokens                  │ one of them     │ one of them     │     │ nothing yet

So to reorder beams is to reorder rows of a table of booleans, and a step of all beams is one attention call.

Shape letters in addition to those of `kosmos_plugin.models`: B prompts, G beams of each, P positions of the longest
prompt, N steps, S = P + N·G keys.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from kosmos_plugin.models.kv_cache import KeyValueCache


class CacheShape(NamedTuple):
    """The shape of a static cache."""

    prompts: int  # B
    beams: int  # G
    prompt_length: int  # P
    steps: int  # N

    @property
    def keys(self) -> int:
        """S, the keys of each prompt and its beams."""
        return self.prompt_length + self.steps * self.beams


class StaticCache:
    """Keys and values of B prompts and of N steps of their G beams.

    Args:
        shape: B, G, P and N.
        store: Where to keep keys and values, [layers, 2, B, H, S, D].
        parents: int64 [B, G], read at every step: the beam of the step before that each beam continues.
    """

    def __init__(self, shape: CacheShape, store: torch.Tensor, parents: torch.Tensor):
        device = store.device
        self.shape = shape
        self.store = store
        self.parents = parents
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.next_position = torch.zeros(shape.prompts, dtype=torch.int64, device=device)
        self.visible = torch.zeros(shape.prompts, shape.beams, shape.keys, dtype=torch.bool, device=device)
        # Of the step that is being computed:
        self.new_keys = torch.zeros(shape.beams, dtype=torch.int64, device=device)  # where its keys belong among the S
        self.mask = store.new_zeros(shape.prompts, 1, shape.beams, shape.keys)  # added to the scores: 0 or −∞

    def load(self, prompts: KeyValueCache, copies: int = 1) -> None:
        """Start with the rows of `prompts`, of at most B prompts and P positions.

        The rows that share a prefix there have copies of it here.

        Args:
            prompts: Adjacent rows, `copies` of them, are the same prompt, which all of its beams see here.
            copies: Rows of each prompt.
        """
        self.store.zero_()  # keys that are not seen get the weight 0, which does not make infinities vanish
        self.step.zero_()
        self.visible.zero_()
        self.next_position.zero_()
        rows, first, device = prompts.levels[-1].rows // copies, 0, self.store.device
        self.next_position[:rows] = prompts.levels[-1].next_position[::copies]
        for level, ancestors in zip(prompts.levels, prompts.ancestors(), strict=True):
            if level.length == 0:  # it has just branched off
                continue
            assert level.store is not None, "nothing was written"
            row, part = torch.tensor(ancestors[::copies], device=device), slice(first, first + level.length)
            self.store[:, :, :rows, :, part] = level.store[..., : level.length, :].index_select(2, row)
            self.visible[:rows, :, part] = True if level.valid is None else level.valid[row].unsqueeze(1)
            first += level.length

    def of_steps(self, count: int) -> torch.Tensor:
        """Keys and values of the first prompt in the first `count` steps of its only beam, [layers, 2, 1, H, T, D]."""
        assert self.shape.beams == 1
        return self.store[:, :, :1, :, self.shape.prompt_length : self.shape.prompt_length + count]

    def reserve(self, rows: int, length: int, device: torch.device, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Begin a step: one position for each of the B·G beams; returns positions int64 [B·G, 1]."""
        assert length == 1 and valid is None and rows == self.parents.numel()
        prompts, beams, prompt_length, _ = self.shape
        beam = torch.arange(beams, device=device)
        torch.add(beam, self.step * beams + prompt_length, out=self.new_keys)
        inherited = self.visible.gather(1, self.parents.unsqueeze(2).expand_as(self.visible))
        own_key = self.new_keys.view(1, beams, 1).expand(prompts, -1, -1)
        self.visible.copy_(inherited.scatter_(2, own_key, True))
        self.mask.zero_().masked_fill_(~self.visible.unsqueeze(1), -torch.inf)
        positions = self.next_position.repeat_interleave(beams).unsqueeze(1)
        self.next_position += 1
        self.step += 1
        return positions

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """x itself: a step has no padding."""
        return x

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        """x itself: a step has no padding."""
        return x

    def layer(self, number: int) -> "StaticLayerCache":
        """The part of one layer."""
        return StaticLayerCache(self, number)


class StaticLayerCache(NamedTuple):
    """One layer's part of a static cache (an `AttentionContext`)."""

    cache: StaticCache
    layer: int

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
        """Store the k and v of a step and let each beam attend to all that it sees; all are [B·G, 1, H, D]."""
        cache, (prompts, beams, _, _) = self.cache, self.cache.shape
        q_BHGD, k_BHGD, v_BHGD = (x.view(prompts, beams, *x.shape[2:]).transpose(1, 2) for x in (q, k, v))
        k_BHSD, v_BHSD = cache.store[self.layer]
        k_BHSD.index_copy_(2, cache.new_keys, k_BHGD)
        v_BHSD.index_copy_(2, cache.new_keys, v_BHGD)
        attended_BHGD = F.scaled_dot_product_attention(q_BHGD, k_BHSD, v_BHSD, cache.mask, dropout)
        return attended_BHGD.transpose(1, 2).reshape(q.shape)
