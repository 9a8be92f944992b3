"""The paper in miniature: nothing of a test is trained on, questions have the answers that they should, verdicts."""

import importlib.util
import json
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"
sys.path[:0] = [str(ROOT / "examples" / "paper"), str(QUICKSTART)]

import prepare  # noqa: E402

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in (*prepare.PACKAGES, "matplotlib")),
    reason="needs the quickstart extra: pip install kosmos-plugin[quickstart]",
)
if importlib.util.find_spec("matplotlib"):
    import captions
    import claims
    import commonsense
    import data
    import few_shot
    import matrices
    import measuring
    import pictures
    import reading
    import things_and_words as names
    import trainings
    import world as worlds_module
    from world import World

from kosmos_plugin.data.config import read_data_config  # noqa: E402
from kosmos_plugin.evaluation.benchmarks.raven_iq import RavenIq  # noqa: E402
from kosmos_plugin.evaluation.jsonl_benchmark import JsonLines  # noqa: E402
from kosmos_plugin.vocabulary import Vocabulary  # noqa: E402

DOCUMENTS, QUESTIONS = 60, 8


@pytest.fixture(scope="module")
def worlds() -> dict[str, "World"]:
    return {name: make(DOCUMENTS, QUESTIONS) for name, make in data.WORLDS.items()}


def trained_texts(worlds) -> list[str]:
    """Texts that are beside pictures in training."""
    beside = [text for world in worlds.values() for document in world.interleaved for text in document]
    captioned = [caption for world in worlds.values() for _, caption in world.captions]
    return [text for text in beside if isinstance(text, str)] + captioned


def trained_pictures(worlds) -> set[bytes]:
    shown = [part for world in worlds.values() for document in world.interleaved for part in document]
    captioned = [picture for world in worlds.values() for picture, _ in world.captions]
    return {part for part in shown if isinstance(part, bytes)} | set(captioned)


def words_of(texts: list[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+", text)}


def test_no_new_word_is_beside_a_picture(worlds):
    assert not words_of(trained_texts(worlds)) & set(names.NEW_WORDS)
    assert set(names.WORDS) & words_of(trained_texts(worlds))


def test_no_new_thing_has_a_word_beside_pictures(worlds):
    bound = {text for document in worlds["few_shot"].interleaved for text in document if isinstance(text, str)}
    assert not words_of(list(bound)) & set(names.NEW_THINGS)


def test_no_new_shape_is_in_training(worlds):
    texts = [*trained_texts(worlds), *(line for world in worlds.values() for line in world.text)]
    assert not [shape for shape in names.NEW_SHAPES if any(shape in text for text in texts)]


def test_no_picture_of_a_test_is_trained_on(worlds):
    """The last picture is what is asked about; demonstrations show pictures of training as well."""
    trained = trained_pictures(worlds)
    asked = [
        worlds_module.last_picture(question.prompt)
        for world in worlds.values()
        for questions in world.benchmarks.values()
        for question in questions
        if any(isinstance(part, bytes) for part in question.prompt)
    ]
    assert len(asked) > 100 and not trained & set(asked)


def test_no_training_style_is_tested(worlds):
    assert not set(captions.NEW_STYLES) & set(captions.TRAINING_STYLES)
    assert len(set(captions.STYLES)) == len(captions.STYLES)


def test_documents_with_pictures_alone_tell_what_is_pictured(worlds):
    """No text and no caption names a pictured thing together with a color or a size."""
    texts = [text for world in worlds.values() for text in world.text]
    texts += [caption for world in worlds.values() for _, caption in world.captions]
    texts += [line["inputs"] for world in worlds.values() for line in world.instructions]
    told = {*names.COLORS, *commonsense.SIZES}
    for sentence in {sentence for text in texts for sentence in re.split(r"[.:]", text)}:
        words = set(re.findall(r"\w+", sentence))
        assert not (words & set(names.PICTURED) and words & told), sentence


def test_fonts_of_tests_are_of_another_family():
    assert not {font[:4] for font in pictures.TRAINING_FONTS} & {font[:4] for font in pictures.NEW_FONTS}


def test_matrices():
    """The right candidate continues the rule of its row and its column; no other one does."""
    for number in range(200):
        drawn = matrices.matrix(random.Random(number), tested=number % 2 == 0)
        side = {3: 2, 8: 3}[len(drawn.panels)]
        rows = [[*drawn.panels, drawn.candidates[0]][start : start + side] for start in range(0, side * side, side)]
        assert len(set(drawn.candidates)) == 6 == len(drawn.candidates)
        for row in rows:
            assert len({color for _, color, _ in row}) == 1
            assert [(form, count) for form, _, count in row] == [(form, count) for form, _, count in rows[0]]
        assert matrices.is_tested((*drawn.panels, drawn.candidates[0])) == (number % 2 == 0)


def test_shuffled_changes_the_last_picture_alone(worlds):
    questions = worlds["few_shot"].benchmarks["words_4"]
    for question, wrong in zip(questions, worlds_module.shuffled(questions, "seed"), strict=True):
        assert len(wrong.prompt) == len(question.prompt)
        differing = [
            place for place, parts in enumerate(zip(question.prompt, wrong.prompt, strict=True)) if len(set(parts)) > 1
        ]
        assert differing == [len(question.prompt) - 1]
        assert (wrong.answer, wrong.candidates) == (question.answer, question.candidates)


def test_demonstrations_hold_the_answer(worlds):
    for shots in few_shot.SHOTS[1:]:
        for question in worlds["few_shot"].benchmarks[f"words_{shots}"]:
            assert question.answer in question.prompt and question.answer in question.candidates
            assert sum(isinstance(part, bytes) for part in question.prompt) == shots + 1


def test_sentiment():
    assert [reading.sentiment(text) for text in ("good", "not good", "bad", "not bad")] == [
        "positive", "negative", "negative", "positive",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("paper")
    data.write_data(out / "data", data.Size(DOCUMENTS, QUESTIONS))
    return out


def test_every_benchmark_of_a_claim_can_be_read(prepared):
    folder = prepared / "data" / "benchmarks"
    for asked in claims.benchmarks_of(list(claims.CLAIMS)).values():
        for name in asked:
            if name.startswith("raven_iq"):
                assert len(RavenIq(folder / name).items()) == QUESTIONS * 2
            elif name.startswith("chain_of_thought"):
                assert (folder / name.replace("chain_of_thought", "sentiment")).with_suffix(".jsonl").is_file()
            else:
                assert JsonLines(folder / f"{name}.jsonl").items()


def test_streams(prepared):
    for training in trainings.TRAININGS.values():
        written = prepared / "data.yaml"
        written.write_text(json.dumps(trainings.data_yaml(prepared / "data", training)))
        config = read_data_config(written)
        assert {stream.name: stream.sequences_per_update for stream in config.streams} == training.sequences


def test_data_is_made_once(prepared):
    before = (prepared / "data" / "prepared.json").stat().st_mtime_ns
    data.write_data(prepared / "data", data.Size(DOCUMENTS, QUESTIONS))
    assert (prepared / "data" / "prepared.json").stat().st_mtime_ns == before


def test_starts_come_first():
    assert trainings.with_starts(["instructions"]) == ["language", "base", "instructions"]
    assert trainings.with_starts(["text_only", "base"]) == ["language", "base", "text_only"]


@pytest.mark.parametrize(
    ("first", "second", "kind", "holds"),
    [
        (0.5, 0.9, "above", True),
        (0.5, 0.5, "above", False),
        (0.9, 0.5, "above", False),
        (0.5, 0.49, "no worse", True),
        (0.9, 0.5, "no worse", False),
        (0.5, 0.5, "not above", True),
        (0.5, 0.9, "not above", False),
    ],
)
def test_verdicts(tmp_path, first, second, kind, holds):
    """Of made-up answers of 400 items, written as kosmos-evaluate writes them."""
    from kosmos_plugin.evaluation.results import Result, write_results

    draws = np.random.default_rng(1).random(400)
    for name, share in {"one": first, "other": second}.items():
        folder = trainings.folder(tmp_path, name, 1) / "evaluation"
        (folder / "task").mkdir(parents=True)
        lines = [json.dumps({"id": str(number), "score": float(draw < share)}) for number, draw in enumerate(draws)]
        (folder / "task" / "predictions.jsonl").write_text("\n".join(lines))
        result = Result("task", "task", "", "test", 0, 400, 0, {"accuracy": 0.0}, None, "task", "", 1)
        write_results(folder, [result])
    sides = [claims.Measure(name, name, ("task",)) for name in ("one", "other")]
    claim = claims.Claim("made-up", "", "", "", (claims.Comparison(*sides, kind),), "")
    result = measuring.results(tmp_path, claim, [1])
    assert result["holds"] == holds == result["comparisons"][0]["holds"]
    low, high = result["comparisons"][0]["interval"]
    assert low <= result["comparisons"][0]["difference"] <= high


def test_words_are_single_pieces(prepared):
    vocabulary = Vocabulary.load(prepared / "data" / "vocabulary")
    for word in (*names.WORDS, *names.NEW_WORDS, *names.CHARACTERS, *names.COLORS, *names.FORMS):
        assert len(vocabulary.encode(f"x {word}")) == len(vocabulary.encode("x")) + 1, word
