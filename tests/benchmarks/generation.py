"""Generation at the size of `kosmos_base`: captions, a long context, few-shot candidates, a conversation.

A decoder with 12 layers of width 768 and a vocabulary of about 65,000, ViT-B/32, 64 image tokens, random weights,
float32. If the baseline is another library, both sides have the same weights, read the same tokens, and must generate
the same tokens.

Theoretical limits are ratios of FLOPs, or of bytes for steps at a long context, which are bound by memory
(`step_bytes`): 2 · 12 · (4E² + 2EF) per token read, 4 · 12 · E for each key it sees, 2VE where logits are made, and an
image's cost by torch's counter.
"""

import random
import tempfile
from pathlib import Path

import torch
from torch import nn
from torchscale.architecture.decoder import Decoder

from kosmos_plugin.checkpoints.fairseq_checkpoint import build_empty
from kosmos_plugin.data.samples import Sample
from kosmos_plugin.fairseq_modules.architectures import KosmosModel
from kosmos_plugin.generation.beam_search import SearchOptions, search
from kosmos_plugin.generation.conversation import Conversation
from kosmos_plugin.generation.ending import Ending
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.generation.likelihood import score_candidates
from kosmos_plugin.generation.prefill import prefill
from kosmos_plugin.models.config import KosmosBaseConfig
from kosmos_plugin.models.decoder import KosmosDecoder, decoder_config
from kosmos_plugin.models.flops import image_flops
from tests import tiny
from tests.benchmarks.peers import torchscale_generation, transformers_generation
from tests.benchmarks.result import Cell, Result
from tests.benchmarks.side_by_side import COLUMNS, SideBySide, side_by_side

LAYERS, WIDTH, FFN, HEADS = 12, 768, 3072, 12
PIECES, POSITIONS, IMAGE_TOKENS = 63_997, 2048, 64
TEXT = {
    "layers": LAYERS, "embed_dim": WIDTH, "ffn_dim": FFN, "attention_heads": HEADS, "max_position_embeddings": POSITIONS
}  # fmt: skip
VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32,
}  # fmt: skip
BEAM, NEW_TOKENS = 5, 32
CONTEXT, STEPS = 1024, 16
SHOTS, CANDIDATES, CANDIDATE_TOKENS, FROM_SCRATCH = 8, 64, (1, 8), 2
QUESTIONS, QUESTION_WORDS, ANSWER_TOKENS = 10, 12, 4
TURNS = 3


# ---- Theoretical costs ----


def reading_flops(tokens: float, context: float, predictions: float, words: int) -> float:
    """FLOPs of reading `tokens` tokens that attend to `context` keys on average, with logits for `predictions`."""
    layer = 2 * (4 * WIDTH**2 + 2 * WIDTH * FFN) + 4 * WIDTH * context
    return LAYERS * layer * tokens + 2 * words * WIDTH * predictions


def flops_of_image(kosmos: Generator) -> int:
    return sum(image_flops(build_empty(kosmos.model.config, kosmos.vocabulary))[:2])


def step_bytes(words: int, cached: float) -> float:
    """Bytes of a float32 step: each weight read once, and keys and values of `cached` tokens read or written."""
    weights = LAYERS * (4 * WIDTH**2 + 2 * WIDTH * FFN) + words * WIDTH
    return 4 * (weights + LAYERS * 2 * WIDTH * cached)


# ---- Captions, against transformers ----


def captions(kosmos: Generator, theirs, images: int) -> list[Cell]:
    rng = random.Random(1)
    prompts = [kosmos.prompt("<image> An image of", [tiny.png(rng, 224)]) for _ in range(images)]
    tensors = transformers_generation.inputs(kosmos, prompts)
    options = SearchOptions(BEAM, NEW_TOKENS)

    def ours() -> list[list[int]]:
        return [list(found.tokens) for found in kosmos.search(prompts, options)]

    def peer() -> list[list[int]]:
        return transformers_generation.beam_search(theirs, tensors, kosmos, BEAM, NEW_TOKENS)

    require_equal(ours(), peer())
    times = side_by_side(ours, peer, TURNS, warm_up=0)
    length, words = len(prompts[0]), len(kosmos.vocabulary)
    steps = reading_flops(BEAM * (NEW_TOKENS - 1), length + NEW_TOKENS / 2, BEAM * (NEW_TOKENS - 1), words)
    image = flops_of_image(kosmos)
    once, each_beam = (image + reading_flops(rows * length, length / 2, rows, words) + steps for rows in (1, BEAM))
    name = f"beam-{BEAM} captions, {images} image{'s' if images > 1 else ''} at a time, vs transformers"
    return times.row(name, images * NEW_TOKENS, "tokens/s", 1.2, each_beam / once)


# ---- A long context, against TorchScale ----


@torch.inference_mode()
def long_context(kosmos: Generator) -> list[Cell]:
    vocabulary, device = kosmos.vocabulary, kosmos.device
    config = KosmosBaseConfig(vision_encoder="none", tokens_per_sample=POSITIONS)
    torch.manual_seed(1)
    decoder = KosmosDecoder(config, len(vocabulary), vocabulary.pad).to(device).eval()
    model = KosmosModel(config, None, None, decoder)
    stock = Decoder(decoder_config(config, len(vocabulary)), nn.Embedding(*decoder.embed_tokens.weight.shape))
    stock.load_state_dict(decoder.state_dict())
    stock = stock.to(device).eval()
    tokens = torch.randint(4, len(vocabulary), (CONTEXT,))
    slots = torch.zeros(CONTEXT, dtype=torch.bool).numpy()
    state, last = prefill(model, [Sample("noise", tokens.numpy(), tokens.numpy(), slots)], vocabulary.pad)
    read = torchscale_generation.read_prompt(stock, tokens[None].to(device))

    options = SearchOptions(BEAM, STEPS)

    def ours() -> list[int]:
        return list(search(state, last, Ending(vocabulary, options), options)[0][0].tokens)

    def peer() -> list[int]:
        return torchscale_generation.beam_search(stock, read, BEAM, STEPS)

    require_equal(ours(), peer())
    times = side_by_side(ours, peer, TURNS, warm_up=0)
    words, own = len(vocabulary), BEAM * STEPS / 2
    # TorchScale reads and writes the whole cache to reorder and again to append, half of it (keys) to rotate, and
    # attends to it. Ours reads the prompt once per step, and reorders and attends to only the few new tokens.
    limit = step_bytes(words, 6 * (BEAM * CONTEXT + own)) / step_bytes(words, CONTEXT + 3 * own)
    name = f"beam-{BEAM} steps at {CONTEXT:,} tokens of context, vs TorchScale"
    return times.row(name, STEPS, "tokens/s", 2.0, limit)


# ---- Few-shot candidates ----


def few_shot(kosmos: Generator) -> list[Cell]:
    rng = random.Random(2)
    shots = [
        f"<image> Question: {tiny.sentence(rng, (8, 8))} Answer: {tiny.sentence(rng, (2, 2))}" for _ in range(SHOTS)
    ]
    text = " ".join([*shots, f"<image> Question: {tiny.sentence(rng, (8, 8))} Answer:"])
    prompt = kosmos.prompt(text, [tiny.png(rng, 224) for _ in range(SHOTS + 1)])
    words = len(kosmos.vocabulary)
    candidates = [[rng.randrange(4, words) for _ in range(rng.randint(*CANDIDATE_TOKENS))] for _ in range(CANDIDATES)]

    def score(some: list[list[int]]) -> list[float]:
        return score_candidates(kosmos.model, kosmos.vocabulary, prompt, some)

    def from_scratch() -> list[float]:
        return [score([candidate])[0] for candidate in candidates[:FROM_SCRATCH]]

    assert torch.allclose(torch.tensor(score(candidates)[:FROM_SCRATCH]), torch.tensor(from_scratch()), atol=1e-2)
    times = side_by_side(lambda: score(candidates), from_scratch, TURNS, warm_up=0)
    times = SideBySide(times.ours, tuple(seconds * CANDIDATES / FROM_SCRATCH for seconds in times.peer))
    length, tokens = len(prompt), sum(map(len, candidates))
    prompt_flops = (SHOTS + 1) * flops_of_image(kosmos) + reading_flops(length, length / 2, 1, words)
    following = tokens - CANDIDATES
    candidate_flops = reading_flops(following, length, following, words)
    limit = (CANDIDATES * prompt_flops + candidate_flops) / (prompt_flops + candidate_flops)
    name = f"{SHOTS}-shot prompt of {length:,} tokens, {CANDIDATES} candidates, vs each from scratch"
    return times.row(name, CANDIDATES, "candidates/s", 10.0, limit)


# ---- A conversation ----


def conversation(kosmos: Generator) -> list[Cell]:
    rng = random.Random(3)
    image = tiny.png(rng, 224)

    def question() -> str:
        return f"Question: {tiny.sentence(rng, (QUESTION_WORDS, QUESTION_WORDS))} Answer:"

    def talk(questions: int) -> Conversation:
        found = kosmos.chat()
        found.ask(f"<image> {question()}", [image], max_new_tokens=ANSWER_TOKENS)
        for _ in range(questions - 1):
            found.ask(question(), max_new_tokens=ANSWER_TOKENS)
        return found

    turns = 2 * TURNS + 1
    tenth, second = ([talk(before) for _ in range(turns)] for before in (QUESTIONS - 1, 1))
    times = side_by_side(
        lambda: tenth.pop().ask(question(), max_new_tokens=1),
        lambda: second.pop().ask(question(), max_new_tokens=1),
        turns - 1,
    )
    turn, words = QUESTION_WORDS + 4 + ANSWER_TOKENS, len(kosmos.vocabulary)
    costs = [reading_flops(turn, IMAGE_TOKENS + before * turn, 1, words) for before in (1, QUESTIONS - 1)]
    name = "first token of the tenth question about an image; baseline: of the second"
    return times.row(name, 1, "first tokens/s", 1 / 1.2, costs[0] / costs[1])


def require_equal(ours: list, peer: list) -> None:
    if ours != peer:
        raise RuntimeError(f"Both sides must generate the same; ours: {ours}, the baseline's: {peer}")


def run(out: Path) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        kosmos, theirs = transformers_generation.build_pair(Path(folder), PIECES, TEXT, VISION, IMAGE_TOKENS)
        rows = [captions(kosmos, theirs, images=1), captions(kosmos, theirs, images=4)]
        words = len(kosmos.vocabulary)
        del theirs
        rows += [long_context(kosmos), few_shot(kosmos), conversation(kosmos)]
    return Result(
        title="Generation",
        columns=COLUMNS,
        rows=rows,
        notes=[
            f"Decoder of {LAYERS} layers of {WIDTH}, a vocabulary of {words:,}, ViT-B/32, random weights, float32. "
            "Both sides generate the same captions and steps, token for token.",
            f'Captions of "<image> An image of", {NEW_TOKENS} new tokens each, none of which ends early; the time '
            "includes encoding the images.",
            f"Context: {STEPS} tokens after a prompt that was read before; TorchScale's `Decoder` with its incremental "
            "state, whose beams are reordered by index_select. Its xPos moves more bytes than the "
            "theoretical limit includes.",
            f"Candidates: {FROM_SCRATCH} of the {CANDIDATES} are scored from scratch, and the time is scaled.",
            f"Conversation: each turn has {QUESTION_WORDS} words and an answer of {ANSWER_TOKENS} tokens; the tenth "
            "may take 1.2 times as long as the second.",
        ],
    )
