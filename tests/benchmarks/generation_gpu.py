"""Decoding at the size of `kosmos_1` on one GPU in bfloat16: one text, and captions in a batch, against transformers.

24 layers of 2,048, ViT-L/14, a vocabulary of 64,007, random weights. transformers' KOSMOS-2 has the same weights and
prompts. It has no static cache, so the baseline with one is OPT, whose layers have the same matrices; its steps are
compiled by `generate` itself.

The theoretical limit of tokens per second is the GPU's memory bandwidth over the bytes of the decoder's weights, each
of which a step reads once.
"""

import logging
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import OPTConfig, OPTForCausalLM

from kosmos_plugin.data.samples import SampleBuilder
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.models.config import Kosmos2Config, KosmosConfig
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.vocabulary import Vocabulary
from tests import tiny
from tests.benchmarks import time_limit
from tests.benchmarks.arithmetic import measured_rates
from tests.benchmarks.noise import write_vocabulary
from tests.benchmarks.peers import transformers_generation
from tests.benchmarks.peers.kosmos2 import kosmos2_model
from tests.benchmarks.result import Cell, Result
from tests.benchmarks.side_by_side import COLUMNS, SideBySide, seconds_of, side_by_side

TURNS = 3
STATIC_CACHE_SECONDS = 60  # of compiling the baseline with a static cache


@dataclass(frozen=True)
class Sizes:
    """What is generated."""

    words: int = 64  # of the prompt of one sequence
    new_tokens: int = 256
    captions: int = 32
    caption_tokens: int = 32
    beam: int = 5


def run(out: Path) -> Result:
    if not torch.cuda.is_available():
        row: list[Cell] = ["one sequence, greedy", "not measured on a GPU", "", "", "", ""]
        return Result("Decoding on one GPU", COLUMNS, [row], ["This machine has no CUDA device."])
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = write_vocabulary(Path(folder) / "vocabulary")
        return measured(Kosmos2Config(vision_weights="none"), vocabulary, "cuda", torch.bfloat16, Sizes())


def measured(config: KosmosConfig, vocabulary: Vocabulary, device: str, dtype: torch.dtype, sizes: Sizes) -> Result:
    """The table for a model of any size on any device."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.manual_seed(0)
    with torch.device(device):
        model = Kosmos.build(config, len(vocabulary), vocabulary.pad, pretrained_vision=False)
        theirs = kosmos2_model(model, vocabulary).to(dtype).eval()
    builder = SampleBuilder(vocabulary, config.image_tokens, config.tokens_per_sample)
    kosmos = Generator(model.to(dtype), vocabulary, builder)
    rows, equal = [], []
    for row, share in (one_sequence(kosmos, theirs, sizes), captions(kosmos, theirs, sizes)):
        rows.append(row)
        equal.append(share)
    del theirs
    notes = [
        f"Decoder of {config.decoder_layers} layers of {config.decoder_embed_dim}, a vocabulary of "
        f"{len(vocabulary):,}, {config.vision_model}, random weights, {str(dtype).removeprefix('torch.')}. Of the "
        f"tokens, {equal[0]:.0%} and {equal[1]:.0%} are equal on both sides: rounding decides between likely tokens.",
        f"One sequence: {sizes.new_tokens} tokens after {sizes.words}. Captions include encoding the images.",
        f"Our steps after the first search of a shape; recording its CUDA graph takes {recording(kosmos):.2f} s once.",
    ]
    if time_limit.left() > STATIC_CACHE_SECONDS:
        rows.insert(1, static_cache(kosmos, sizes))
    else:
        notes.append("The static cache was not measured, since no time was left.")
    return Result("Decoding on one GPU", COLUMNS, rows, notes)


def one_sequence(kosmos: Generator, theirs, sizes: Sizes) -> tuple[list[Cell], float]:
    """A row of the table, and the share of tokens that are equal on both sides."""
    prompt = kosmos.prompt(_text(sizes.words))
    ids = torch.from_numpy(prompt.tokens)[None].to(kosmos.device)
    options = SearchOptions(max_new_tokens=sizes.new_tokens)
    lengths = {"min_new_tokens": sizes.new_tokens, "max_new_tokens": sizes.new_tokens}

    def ours() -> tuple[int, ...]:
        return kosmos.search([prompt], options)[0].tokens

    def peer() -> list[int]:
        generated = theirs.text_model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, **lengths,
            pad_token_id=kosmos.vocabulary.pad, suppress_tokens=[kosmos.vocabulary.pad],
        )  # fmt: skip
        return generated[0, ids.size(1) :].tolist()

    tokens, their_tokens = ours(), peer()
    times = _for_tokens(side_by_side(ours, peer, TURNS), len(tokens), sizes.new_tokens)
    row = times.row("one sequence, greedy, vs transformers", len(tokens), "tokens/s", 5.0, None)
    row[-1] = f"{weight_limit(kosmos):,.0f} tokens/s"
    return row, _equal(tokens, their_tokens)


def static_cache(kosmos: Generator, sizes: Sizes) -> list[Cell]:
    """Against OPT with a static cache, compiled."""
    config = kosmos.model.config
    with torch.device(kosmos.device):
        opt = OPTForCausalLM(
            OPTConfig(
                vocab_size=len(kosmos.vocabulary), num_hidden_layers=config.decoder_layers,
                hidden_size=config.decoder_embed_dim, word_embed_proj_dim=config.decoder_embed_dim,
                ffn_dim=config.decoder_ffn_embed_dim, num_attention_heads=config.decoder_attention_heads,
                max_position_embeddings=config.tokens_per_sample, pad_token_id=kosmos.vocabulary.pad,
                bos_token_id=kosmos.vocabulary.bos, eos_token_id=kosmos.vocabulary.eos,
            )
        ).to(kosmos.dtype).eval()  # fmt: skip
    prompt = kosmos.prompt(_text(sizes.words))
    ids = torch.from_numpy(prompt.tokens)[None].to(kosmos.device)
    options = SearchOptions(max_new_tokens=sizes.new_tokens)
    lengths = {"min_new_tokens": sizes.new_tokens, "max_new_tokens": sizes.new_tokens}

    def peer() -> torch.Tensor:
        return opt.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, cache_implementation="static", **lengths
        )

    new = len(kosmos.search([prompt], options)[0].tokens)
    times = side_by_side(lambda: kosmos.search([prompt], options), peer, TURNS, warm_up=2)
    times = _for_tokens(times, new, sizes.new_tokens)
    return times.row("one sequence, greedy, vs OPT with transformers' static cache", new, "tokens/s", 1.2, None)


def captions(kosmos: Generator, theirs, sizes: Sizes) -> tuple[list[Cell], float]:
    """A row of the table, and the share of tokens that are equal on both sides."""
    rng, size = random.Random(2), kosmos.model.config.image_size
    prompts = [kosmos.prompt("<image> word1 word2 word3", [tiny.png(rng, size)]) for _ in range(sizes.captions)]
    tensors = transformers_generation.inputs(kosmos, prompts)
    options = SearchOptions(sizes.beam, sizes.caption_tokens)

    def ours() -> list[tuple[int, ...]]:
        return [found.tokens for found in kosmos.search(prompts, options)]

    def peer() -> list[list[int]]:
        return transformers_generation.beam_search(theirs, tensors, kosmos, sizes.beam, sizes.caption_tokens)

    tokens, their_tokens = ours(), peer()
    times = side_by_side(ours, peer, TURNS)
    name = f"beam-{sizes.beam} captions, {sizes.captions} images at a time, vs transformers"
    row = times.row(name, sum(map(len, tokens)), "tokens/s", 2.0, None)
    shares = [_equal(*pair) for pair in zip(tokens, their_tokens, strict=True)]
    return row, sum(shares) / len(shares)


def recording(kosmos: Generator) -> float:
    """Seconds that the first search of a shape takes longer than the second."""
    prompts, options = [kosmos.prompt("word1 word2 word3")] * 2, SearchOptions(max_new_tokens=2)
    first, second = (seconds_of(lambda: kosmos.search(prompts, options)) for _ in range(2))
    return max(first - second, 0.0)


def weight_limit(kosmos: Generator) -> float:
    """Steps per second if each only had to read the decoder's weights."""
    weights = sum(weight.numel() * weight.element_size() for weight in kosmos.model.decoder.parameters())
    return measured_rates(1).bytes / weights


def _for_tokens(times: SideBySide, ours: int, theirs: int) -> SideBySide:
    """As if the baseline had generated as few tokens as ours, whose text may end early."""
    return SideBySide(times.ours, tuple(seconds * ours / theirs for seconds in times.peer))


def _text(words: int) -> str:
    rng = random.Random(1)
    return " ".join(f"word{rng.randrange(100)}" for _ in range(words))


def _equal(ours, theirs) -> float:
    """The share of equal tokens up to the shorter length."""
    pairs = list(zip(ours, theirs, strict=False))
    return sum(one == other for one, other in pairs) / len(pairs)
