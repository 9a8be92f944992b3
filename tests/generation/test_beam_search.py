"""Cached generation equals recomputation, a batch equals its prompts one by one, beams are those of the field."""

import copy
import random

import pytest
import torch

from kosmos_plugin.errors import UserError
from kosmos_plugin.generation import static_stepper
from kosmos_plugin.generation.beam_search import Hypothesis, SearchOptions, _Beams, generate, generated_text
from kosmos_plugin.generation.ending import Ending
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.generation.likelihood import score_candidates
from kosmos_plugin.vocabulary import Vocabulary
from tests import tiny


@pytest.fixture(params=["growing", "static"], autouse=True)
def shapes(request, monkeypatch):
    """Each test also with the GPU's steps of fixed shapes, run one by one as on a CPU."""
    monkeypatch.setattr(static_stepper, "uses_static_shapes", lambda device: request.param == "static")


@pytest.fixture(scope="module", params=[0, 1, 2])
def kosmos(request, data):
    task = tiny.task(data)
    model = tiny.model(task, seed=request.param)
    # Untrained models only repeat themselves; with larger embeddings their output varies.
    model.decoder.embed_tokens.weight.data *= 3
    return Generator(model, task.vocabulary, task.sample_builder)


@pytest.fixture(scope="module")
def prompts(kosmos):
    """Prompts of unequal lengths with zero, one and two images."""
    rng = random.Random(1)
    texts = ["a", "<image>", "the <image> red house <image> of", "a small cat sleeps near the river and the car"]
    return [kosmos.prompt(text, [tiny.png(rng) for _ in range(text.count("<image>"))]) for text in texts]


def logits_from_scratch(kosmos, prompt, tokens):
    """The next token's log-probabilities after a prompt and `tokens`, from one uncached pass."""
    ids = torch.cat((torch.from_numpy(prompt.tokens), torch.tensor(tokens, dtype=torch.int64)))[None]
    slots = torch.zeros_like(ids, dtype=torch.bool)
    slots[0, : len(prompt)] = torch.from_numpy(prompt.image_slots)
    images = torch.stack([tiny.decode(image) for image in prompt.images]) if prompt.images else None
    with torch.no_grad():
        logits = kosmos.model(ids, torch.ones_like(ids), slots, images)[0][0, -1]
    log_probs = logits.log_softmax(-1)
    log_probs[kosmos.vocabulary.pad] = -torch.inf
    return log_probs


def search(kosmos, prompts, **options):
    return generate(kosmos.model, kosmos.vocabulary, prompts, SearchOptions(**options))


def test_greedy_with_the_cache_equals_recomputing(kosmos, prompts):
    for prompt in prompts:
        found = search(kosmos, [prompt], max_new_tokens=12)[0]
        total = 0.0
        for length, token in enumerate(found.tokens):
            log_probs = logits_from_scratch(kosmos, prompt, found.tokens[:length])
            assert token == int(log_probs.argmax())
            total += float(log_probs[token])
        assert found.log_probability == pytest.approx(total, abs=1e-3)
        ended = found.tokens[-1] in (kosmos.vocabulary.eos, kosmos.vocabulary.image_begin)
        assert ended or len(found.tokens) == 12


@pytest.mark.parametrize("beam", [1, 3, 5])
def test_a_batch_equals_its_prompts_one_by_one(kosmos, prompts, beam):
    together = search(kosmos, prompts, num_beams=beam, max_new_tokens=10)
    for prompt, found in zip(prompts, together, strict=True):
        [single] = search(kosmos, [prompt], num_beams=beam, max_new_tokens=10)
        assert found.tokens == single.tokens
        assert found.score == pytest.approx(single.score, abs=1e-4)


@pytest.mark.parametrize("beam", [2, 3, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_with_the_greedy_path_a_beam_never_scores_below_greedy(kosmos, prompts, beam, length_penalty):
    options = {"max_new_tokens": 8, "length_penalty": length_penalty}
    wider = search(kosmos, prompts, num_beams=beam, keep_greedy=True, **options)
    for greedy, wide in zip(search(kosmos, prompts, **options), wider, strict=True):
        assert wide.score >= greedy.score - 1e-4


def plain_beam_search(kosmos, prompt, beam: int, length: int) -> float:
    """The best log-probability that beam search finds in `length` steps, none of which ends a text."""
    beams = [((), 0.0)]
    for _ in range(length):
        continued = []
        for tokens, total in beams:
            best = logits_from_scratch(kosmos, prompt, tokens).topk(beam)
            assert not {kosmos.vocabulary.eos, kosmos.vocabulary.image_begin} & set(best.indices.tolist())
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            continued += [((*tokens, token), total + value) for token, value in pairs]
        beams = sorted(continued, key=lambda path: -path[1])[:beam]
    return beams[0][1]


@pytest.mark.parametrize("beam", [2, 3])
def test_the_greedy_path_wins_where_it_is_kept_although_the_beams_drop_it(data, beam):
    task = tiny.task(data)
    model = tiny.model(task, seed=10, vision_encoder="none")
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    kosmos = Generator(model, task.vocabulary, task.sample_builder)
    prompt = kosmos.prompt("a")
    greedy = search(kosmos, [prompt], max_new_tokens=12)[0]
    plain = plain_beam_search(kosmos, prompt, beam, 12)
    assert plain < greedy.log_probability - 1e-3
    options = {"num_beams": beam, "max_new_tokens": 12}
    assert search(kosmos, [prompt], **options)[0].log_probability == pytest.approx(plain, abs=1e-3)
    assert search(kosmos, [prompt], keep_greedy=True, **options)[0].tokens == greedy.tokens


@pytest.mark.parametrize(
    ("length_penalty", "max_new_tokens", "parents"),
    [
        (0.0, 20, [1, 1]),  # −3.1 can only fall, and −0.51 is finished
        (1.0, 4, [1, 1]),  # at best −3.1 / 4, and −0.51 / 2 is finished
        (1.0, 20, [1, 1, 0]),  # −3.1 / 20 would be better
    ],
)
def test_the_greedy_path_runs_in_a_row_of_its_own_while_it_can_win(length_penalty, max_new_tokens, parents):
    end = 9
    beams = _Beams(SearchOptions(2, max_new_tokens, length_penalty, keep_greedy=True), lambda path: path[-1] == end)
    assert beams.advance([[-0.1, -0.5, -7.0, -8.0]], [[1, 2, 3, 4]]) == [0, 0]
    # The greedy path is (1, 3); (2, end) ends, (2, 5) and (2, 6) are the beams that continue.
    found = beams.advance([[-3.0, -9.0, -9.1, -9.2], [-0.01, -1.0, -1.1, -9.0]], [[3, 4, 5, 6], [end, 5, 6, 7]])
    assert found == parents
    assert [path.tokens for path in beams.rows()] == [(2, 5), (2, 6), (1, 3)][: len(parents)]


def test_a_sequence_may_only_end_among_the_best():
    """As in fairseq and transformers, a hypothesis may only end among the `beam` best continuations."""
    end = 9
    beams = _Beams(SearchOptions(num_beams=2, max_new_tokens=20), lambda path: path[-1] == end)
    beams.advance([[-0.1, -0.5, -7.0, -8.0]], [[1, 2, 3, 4]])
    # Best first: (1, end), (1, 3), (2, end), (2, 4)
    values, tokens = [[-0.1, -0.2, -7.0, -8.0], [-0.1, -0.2, -7.0, -8.0]], [[end, 3, 5, 6], [end, 4, 5, 6]]
    assert beams.advance(values, tokens) == [0, 1]
    assert [hypothesis.tokens for hypothesis in beams.finished] == [(1, end)]
    assert [path.tokens for path in beams.running] == [(1, 3), (2, 4)]


def test_beams_stop_when_none_beats_the_finished_ones():
    end = 9
    beams = _Beams(SearchOptions(num_beams=2, max_new_tokens=20, length_penalty=0.0), lambda path: path[-1] == end)
    beams.advance([[-0.1, -0.5, -7.0, -8.0]], [[1, 2, 3, 4]])
    values, tokens = [[-0.01, -5.0, -5.1, -5.2], [-0.02, -6.0, -6.1, -6.2]], [[end, 5, 6, 7], [end, 5, 6, 7]]
    assert beams.advance(values, tokens) == []
    assert beams.best()[0].tokens == (1, end)


def test_a_beam_as_wide_as_the_vocabulary_is_exhaustive(kosmos, prompts):
    """Two steps that keep every first token find the best of all pairs."""
    prompt, vocabulary = prompts[1], kosmos.vocabulary
    first = logits_from_scratch(kosmos, prompt, [])
    best = -torch.inf
    for token in range(len(vocabulary)):
        if token == vocabulary.pad:
            continue
        if token in (vocabulary.eos, vocabulary.image_begin):
            best = max(best, float(first[token]))
        else:
            best = max(best, float(first[token] + logits_from_scratch(kosmos, prompt, [token]).max()))
    found = search(kosmos, [prompt], num_beams=len(vocabulary), max_new_tokens=2, length_penalty=0.0)[0]
    assert found.log_probability == pytest.approx(best, abs=1e-3)


def test_hypotheses_are_scored_as_the_model_scores_them(kosmos, prompts):
    for prompt, found in zip(prompts, search(kosmos, prompts, num_beams=4, max_new_tokens=6), strict=True):
        assert found.score == pytest.approx(found.log_probability / len(found.tokens))
        [score] = score_candidates(kosmos.model, kosmos.vocabulary, prompt, [found.tokens])
        assert score == pytest.approx(found.log_probability, abs=1e-3)


def test_candidates_share_the_prompt_and_score_as_from_scratch(kosmos, prompts):
    rng = random.Random(3)
    candidates = [[rng.randint(4, 60) for _ in range(rng.randint(1, 6))] for _ in range(7)]
    for prompt in prompts:
        scores = score_candidates(kosmos.model, kosmos.vocabulary, prompt, candidates)
        for candidate, score in zip(candidates, scores, strict=True):
            expected = sum(
                float(logits_from_scratch(kosmos, prompt, candidate[:i])[token]) for i, token in enumerate(candidate)
            )
            assert score == pytest.approx(expected, abs=1e-3)


def test_stop_text_ends_generation(kosmos, prompts):
    free = generated_text(kosmos.vocabulary, search(kosmos, prompts[3:], max_new_tokens=16)[0])
    words = free.split()
    assert len(words) > 2, "this seed says too little to test stopping"
    stopped = search(kosmos, prompts[3:], max_new_tokens=16, stop=(words[1],))[0]
    assert len(stopped.tokens) < 16
    assert generated_text(kosmos.vocabulary, stopped, (words[1],)) == free.partition(words[1])[0].strip()


def test_images_matter_and_are_in_their_positions(kosmos):
    rng = random.Random(5)
    first, second = tiny.png(rng), tiny.png(rng)
    one = kosmos.score("<image> a <image> b", [first, second], ["cat", "dog"])
    other = kosmos.score("<image> a <image> b", [second, first], ["cat", "dog"])
    assert one != pytest.approx(other, abs=1e-4)


def test_prompts_that_do_not_fit_are_refused(kosmos):
    with pytest.raises(UserError, match="new ones"):
        kosmos.generate("a", max_new_tokens=tiny.TOKENS_PER_SAMPLE)
    with pytest.raises(UserError, match="takes 64"):
        kosmos.generate("a cat " * 50, max_new_tokens=1)


def test_stop_text_of_newlines(data):
    """To a vocabulary that encodes newlines a run of them is one `</line>`, which decodes to one newline."""
    vocabulary = Vocabulary.load(data.parent / "vocabulary")
    vocabulary.newlines = True
    tokens = tuple(vocabulary.encode("the red dog\n\na cat"))
    said = Hypothesis(tokens, 0.0, 0.0)
    for mark in ("\n", "\n\n", "\r\n\r\n", "\n\na"):
        assert generated_text(vocabulary, said, (mark,)) == "the red dog"
    assert generated_text(vocabulary, said, ("cat",)) == "the red dog\na"
    vocabulary.newlines = False
    assert generated_text(vocabulary, Hypothesis(tuple(vocabulary.encode("a\n\ncat")), 0.0, 0.0), ("\n",)) == "a cat"


def test_generation_ends_at_a_stop_text_of_newlines(kosmos):
    vocabulary = copy.copy(kosmos.vocabulary)
    vocabulary.newlines = True
    ends = Ending(vocabulary, SearchOptions(stop="\n\n"))
    line = vocabulary.encode("the red dog")
    assert not ends(line)
    assert ends([*line, vocabulary.line_end])
