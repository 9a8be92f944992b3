"""Items per second of each type of benchmark: batched, with shared prompts read once, against one by one.

The model is that of `generation`: a decoder with 12 layers of width 768, ViT-B/32, 64 image tokens, random weights,
float32. Requests have the lengths of the benchmarks that they are named after. One by one means one call per request,
and each choice from scratch. Both ways must give the same answers.
"""

import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.evaluation.requests import Choice, Choose, Generate, Request, question
from kosmos_plugin.evaluation.responder import KosmosResponder
from tests import tiny
from tests.benchmarks.generation import IMAGE_TOKENS, PIECES, TEXT, TURNS, VISION, require_equal
from tests.benchmarks.peers import transformers_generation
from tests.benchmarks.result import Cell, Result
from tests.benchmarks.side_by_side import COLUMNS, side_by_side

ITEMS = 4
NAMES, NAME_WORDS = 1000, (1, 3)
NEW_TOKENS = 8


def picture(rng: random.Random) -> Image:
    encoded = tiny.png(rng, 224)
    return Image(lambda: encoded)


def words(rng: random.Random, count: int) -> str:
    return tiny.sentence(rng, (count, count))


def caption(rng: random.Random) -> Request:
    """COCO, zero-shot."""
    return Generate(question("An image of", picture(rng)), num_beams=5, max_new_tokens=NEW_TOKENS)


def visual_question(rng: random.Random) -> Request:
    """VQAv2, two shots."""
    shots = [(picture(rng), Text(f"Question: {words(rng, 8)} Answer: {words(rng, 1)}")) for _ in range(2)]
    asked = (picture(rng), Text(f"Question: {words(rng, 8)} Answer:"))
    return Generate(tuple(part for shot in (*shots, asked) for part in shot), max_new_tokens=NEW_TOKENS)


def endings(rng: random.Random) -> Request:
    """HellaSwag, one shot: four endings of a context."""
    prompt = (Text(f"{words(rng, 60)}. {words(rng, 30)}"),)
    return Choose(tuple(Choice(prompt, f" {words(rng, 20)}", str(number)) for number in range(4)))


def pronoun(rng: random.Random) -> Request:
    """Winogrande, four shots: two contexts that end differently, one continuation."""
    context, continuation = words(rng, 110), f" {words(rng, 8)}"
    return Choose(tuple(Choice((Text(f"{context} {words(rng, 1)}"),), continuation, label) for label in "12"))


def matrix(rng: random.Random) -> Request:
    """Raven: four images, six candidates for the fifth."""
    shown = (Text("Here are four images:"), *(picture(rng) for _ in range(4)), Text("The following image is:"))
    ask = Text("Is it correct?")
    return Choose(tuple(Choice((*shown, picture(rng), ask), " Yes", label) for label in "ABCDEF"))


def category(names: tuple[str, ...] | None) -> Callable[[random.Random], Request]:
    """ImageNet, constrained to `names` or not."""
    return lambda rng: Generate(question("The photo of the", picture(rng)), 2, NEW_TOKENS, among=names)


def in_a_batch(responder: KosmosResponder, requests: Sequence[Request]) -> list:
    """Each request's text, or its choices' log-probabilities."""
    return (responder.generate if isinstance(requests[0], Generate) else responder.score)(requests)


def one_by_one(responder: KosmosResponder, requests: Sequence[Request]) -> list:
    if isinstance(requests[0], Generate):
        return [responder.generate([request])[0] for request in requests]
    return [[responder.score([Choose((choice,))])[0][0] for choice in request.choices] for request in requests]


def row(responder: KosmosResponder, name: str, make: Callable[[random.Random], Request], items: int) -> list[Cell]:
    rng = random.Random(name)
    requests = [make(rng) for _ in range(items)]

    def ours() -> list:
        return in_a_batch(responder, requests)

    def peer() -> list:
        return one_by_one(responder, requests)

    answers, expected = ours(), peer()
    if isinstance(requests[0], Generate):
        require_equal(answers, expected)
    else:
        torch.testing.assert_close(torch.tensor(answers), torch.tensor(expected), atol=1e-2, rtol=0)
    return side_by_side(ours, peer, TURNS, warm_up=0).row(name, items, "items/s", None, None)


def constrained_beside_free(responder: KosmosResponder, names: tuple[str, ...]) -> list[Cell]:
    """Constrained against free generation, both with as many steps as the longest name has tokens."""
    rng = random.Random(1)
    constrained = [category(names)(rng) for _ in range(ITEMS)]
    assert set(responder.generate(constrained)) <= set(names)  # it also makes the trie
    longest = max(len(responder.vocabulary.encode(name)) for name in names) + 1
    free = [Generate(request.prompt, 2, longest) for request in constrained]
    times = side_by_side(lambda: responder.generate(constrained), lambda: responder.generate(free), TURNS)
    return times.row(f"beam 2 constrained to {NAMES:,} names, against free", ITEMS, "items/s", None, 1.0)


def run(out: Path) -> Result:
    rng = random.Random(0)
    names = {tiny.sentence(rng, NAME_WORDS) for _ in range(2 * NAMES)}
    names = tuple(sorted(names)[:NAMES])
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        kosmos, _ = transformers_generation.build_pair(Path(folder), PIECES, TEXT, VISION, IMAGE_TOKENS)
        responder = KosmosResponder(kosmos)
        rows = [
            row(responder, "captions, beam 5", caption, ITEMS),
            row(responder, "visual questions, two shots, greedy", visual_question, ITEMS),
            row(responder, "endings, four choices", endings, ITEMS),
            row(responder, "pronouns, two contexts", pronoun, ITEMS),
            row(responder, "Raven, six candidate images", matrix, 1),
            row(responder, f"categories, beam 2, {NAMES:,} names", category(names), ITEMS),
            constrained_beside_free(responder, names),
        ]
    return Result(
        title="Evaluation: items per second, in batches against one by one",
        columns=COLUMNS,
        rows=rows,
        notes=[
            f"{ITEMS} items per batch, one for Raven; both ways give equal answers. Times include encoding images, in "
            f"ours once for all choices. {NEW_TOKENS} new tokens for a caption or an answer.",
        ],
    )
