"""FILE.jsonl: the same items as of a benchmark of the package give the same result, and mistakes name FILE:LINE."""

import json
import logging
from dataclasses import replace

import pytest

from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer
from kosmos_plugin.evaluation.benchmarks import benchmark_class
from kosmos_plugin.evaluation.jsonl_benchmark import JsonLines
from kosmos_plugin.evaluation.plan import plan_runs
from kosmos_plugin.evaluation.ranks import Ranks
from kosmos_plugin.evaluation.requests import Choose, Generate, prompt_text
from kosmos_plugin.evaluation.responder import KosmosResponder
from kosmos_plugin.evaluation.run import Run, evaluate
from tests.evaluation.stand_in import Guessing, Knowing


def write(path, *lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


# ---- the same items as a benchmark of the package


def as_line(benchmark, item, settings) -> dict:
    """The line of an item: its request, in the keys of a line."""
    request = benchmark.request(item, ())
    prompt = request.prompt if isinstance(request, Generate) else request.choices[0].prompt
    line = {"id": item.id, "prompt": prompt_text(prompt), **settings}
    if images := [segment.name for segment in prompt if isinstance(segment, Image)]:
        line["images"] = images
    if isinstance(request, Generate):
        answers = item.reference["answers"] if isinstance(item.reference, dict) else item.reference
        return {**line, "num_beams": request.num_beams, "max_new_tokens": request.max_new_tokens, "answer": answers}
    texts = {choice.label: choice.continuation.strip() for choice in request.choices}
    return {**line, "candidates": [*texts.values()], "answer": texts[item.reference]}


SAME = {
    "copa": ({}, (0, 4)),
    "hellaswag": ({"by_length": True}, (0, 1)),
    "rendered_sst2": ({}, (0,)),
    "hateful_memes": ({"metric": "roc_auc"}, (0,)),
    "vqav2": ({"metric": "vqa"}, (0, 4)),
    "websrc": ({"metric": "f1"}, (0,)),
    "flickr30k": ({"metric": "cider"}, (0, 2)),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_items_as_a_benchmark_of_the_package(name, releases, kosmos, tmp_path):
    """The same prompts, answers, log-probabilities and values, with and without demonstrations."""
    settings, shots = SAME[name]
    kind = benchmark_class(name)
    benchmark = kind(releases / kind.release, {"vqav2": "val"}.get(name))
    path = write(tmp_path / f"{name}.jsonl", *(as_line(benchmark, item, settings) for item in benchmark.items()[:8]))
    if max(shots):
        training = [as_line(benchmark, item, settings) for item in benchmark.training_items()]
        write(tmp_path / f"{name}.train.jsonl", *training)
    responder, limit = KosmosResponder(kosmos), 6
    for count in shots:
        results, lines = [], []
        for out, of in ((tmp_path / "package", benchmark), (tmp_path / "file", JsonLines(path))):
            of.check_files(few_shot=count > 0)
            run = Run(of, count, "", "", limit=limit)
            results.append(evaluate(run, responder, out, 3, Ranks()))
            text = (out / run.folder / "predictions.jsonl").read_text("utf-8")
            lines.append([json.loads(line) for line in text.splitlines()])
        for one, other in zip(*lines, strict=True):
            for key in ("id", "prompts", "images", "log_probabilities", "problem", "score", "rationale"):
                assert one[key] == other[key], key
            assert (
                isinstance(benchmark.request(benchmark.items()[0], ()), Choose)
                or one["prediction"] == other["prediction"]
            )
        package, file = results
        for metric, value in file.metrics.items():
            of_package = {"acc_norm": None} if name == "copa" else {}  # copa counts a second space, as lm_eval does
            if metric not in of_package and not metric.startswith("accuracy, "):
                assert value == package.metrics[metric], metric
        assert file.problems == package.problems and file.items == limit


# ---- metrics and keys


@pytest.fixture
def image(tmp_path):
    from PIL import Image as Pillow

    Pillow.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    return "a.png"


def predictions(*texts):
    return [Answer(text, ()) for text in texts]


def scored(path, *texts):
    benchmark = JsonLines(path)
    return benchmark.score(benchmark.items(), predictions(*texts))


def test_exact_match_ignores_white_space_only(tmp_path):
    path = write(tmp_path / "a.jsonl", *[{"prompt": "A pet:", "answer": ["a dog", "a  cat "]}] * 4)
    found = scored(path, " a  dog", "a cat\n", "A dog", "a dog.")
    assert found.per_item == (1, 1, 0, 0) and found.metrics == {"exact match": 50, "SQuAD's EM": 100}


def test_f1_is_squads(tmp_path):
    path = write(tmp_path / "a.jsonl", *[{"prompt": "A pet:", "answer": "a small dog", "metric": "f1"}] * 3)
    found = scored(path, "The small Dog!", "small cat", "")
    assert found.per_item == (1, 0.5, 0) and list(found.metrics) == ["F1", "EM"]
    assert found.metrics["F1"] == pytest.approx(50) and found.metrics["EM"] == pytest.approx(100 / 3)


def test_images_are_where_their_marks_are(tmp_path, image):
    line = {"prompt": "A <image> and <image>, which?", "images": [image, str(tmp_path / image)], "answer": "both"}
    benchmark = JsonLines(write(tmp_path / "a.jsonl", line))
    [item] = benchmark.items()
    request = benchmark.request(item, ())
    assert [type(segment) for segment in request.prompt] == [Text, Image, Text, Image, Text]
    assert prompt_text(request.prompt) == "A <image> and <image> , which?"
    assert benchmark.has_images and request.num_beams == 1 and request.max_new_tokens == 32 and request.stop == ()


def test_the_settings_of_generation(tmp_path, kosmos):
    settings = {"num_beams": 2, "max_new_tokens": 5, "stop": ["zzz", "\n"]}
    stop_at_newline = {**settings, "stop": "z"}
    benchmark = JsonLines(write(tmp_path / "a.jsonl", {"prompt": "Q:", "answer": "x", **stop_at_newline}))
    request = benchmark.request(benchmark.items()[0], ())
    assert (request.num_beams, request.max_new_tokens, request.stop) == (2, 5, ("z",))
    plain = replace(request, stop=())
    [text] = KosmosResponder(kosmos).generate([plain])
    stop = text[len(text) // 2]
    assert KosmosResponder(kosmos).generate([replace(request, stop=(stop,), num_beams=1), plain])[1] == text
    [greedy] = KosmosResponder(kosmos).generate([replace(plain, num_beams=1)])
    stop = greedy[len(greedy) // 2]
    [stopped] = KosmosResponder(kosmos).generate([replace(plain, num_beams=1, stop=(stop,))])
    assert stopped == greedy[: greedy.index(stop)]


def test_a_candidate_after_an_image_and_after_text(tmp_path, image):
    lines = [
        {"prompt": prompt, "images": image, "candidates": ["a dog", " a cat "], "answer": "a cat "}
        for prompt in ("<image> This is", "This is <image>")
    ]
    benchmark = JsonLines(write(tmp_path / "a.jsonl", *lines))
    continuations = [[c.continuation for c in benchmark.request(item, ()).choices] for item in benchmark.items()]
    assert continuations == [[" a dog", " a cat"], ["a dog", "a cat"]]
    assert [item.reference for item in benchmark.items()] == ["a cat", "a cat"]


def test_demonstrations(tmp_path, image):
    """The most frequent answer; an empty line where text follows; an item with the same id is not drawn."""
    path = write(tmp_path / "a.jsonl", {"id": 7, "prompt": "Two?", "answer": "yes"})
    training = [
        {"id": 7, "prompt": "Two?", "answer": "yes"},
        {"prompt": "Three?", "answer": ["b", "no", "no"]},
        {"prompt": "<image>", "images": [image], "answer": "red"},
    ]
    write(tmp_path / "a.train.jsonl", *training)
    benchmark = JsonLines(path)
    [item] = benchmark.items()
    drawn = benchmark.demonstrations(item, benchmark.training_items(), 2, 1)
    assert {one.id for one in drawn} == {"train 2", "train 3"}
    by_id = {one.id: one for one in benchmark.training_items()}
    request = benchmark.request(item, [by_id["train 2"], by_id["train 3"], by_id["train 2"]])
    assert [prompt_text(prompt) for prompt in request.demonstrations] == [
        "Three? no",
        "<image> red\n\n",
        "Three? no\n\n",
    ]
    with pytest.raises(UserError, match=r"a\.train\.jsonl has images, and a\.jsonl has none\."):
        benchmark.check_files(few_shot=True)


def test_without_demonstrations_there_are_no_shots(tmp_path):
    path = write(tmp_path / "pets.jsonl", {"prompt": "A pet:", "answer": "dog"})
    with pytest.raises(
        UserError, match=r"pets: pets\.train\.jsonl is not in .* has the demonstrations; without it, ev"
    ):
        plan_runs(write(tmp_path / "model.pt"), str(path), None, shots="0,2")
    write(tmp_path / "pets.train.jsonl", {"prompt": "A pet:"})
    with pytest.raises(UserError, match=r'pets\.train\.jsonl: a line must have an "answer", to be a demonstration'):
        plan_runs(write(tmp_path / "model.pt"), str(path), None, shots="2")
    write(tmp_path / "pets.train.jsonl", {"prompt": "A pet:", "answer": "cat"})
    with pytest.raises(UserError, match="2 demonstrations are more than the training set's 1"):
        [run] = plan_runs(write(tmp_path / "model.pt"), str(path), None, shots="2").runs
        evaluate(run, Guessing(0), tmp_path / "out", 2, Ranks())


def test_without_answers_there_are_predictions(tmp_path):
    path = write(tmp_path / "pets.jsonl", *[{"prompt": "A pet:", "answer": None}] * 2)
    result = evaluate(Run(JsonLines(path), 0, "", ""), Guessing(0), tmp_path / "out", 2, Ranks())
    assert (
        result.metrics == {} and len((tmp_path / "out/pets/test-0-shot/predictions.jsonl").read_text().split("\n")) == 3
    )


def test_blank_lines_crlf_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.jsonl"
    text = '{"prompt": "a\u2028b", "answer": "c", "metric": null}'
    path.write_bytes(f"\ufeff{text}\r\n\r\n  \r\n{text}".encode())
    assert [item.id for item in JsonLines(path).items()] == ["1", "4"]


def test_a_text_only_model_is_asked_about_text(tmp_path, image):
    words = write(tmp_path / "words.jsonl", {"prompt": "A pet:", "answer": "dog"})
    pictures = write(tmp_path / "pictures.jsonl", {"prompt": "<image>", "images": [image], "answer": "dog"})
    plan = plan_runs(write(tmp_path / "model.pt"), f"{words},{pictures}", None, text_only=True)
    assert [run.benchmark.name for run in plan.runs] == ["words"]
    assert plan.left_out == [f"{pictures}: it has images, and the model reads only text."]


def test_a_changed_file_is_not_resumed(tmp_path):
    path, model = write(tmp_path / "pets.jsonl", {"prompt": "A pet:", "answer": "dog"}), write(tmp_path / "model.pt")
    [run] = plan_runs(model, str(path), None).runs
    assert evaluate(run, Knowing(run), tmp_path / "out", 2, Ranks()).metrics == {"exact match": 100, "SQuAD's EM": 100}
    write(path, {"prompt": "A small pet:", "answer": "dog"})
    [run] = plan_runs(model, str(path), None).runs
    with pytest.raises(UserError, match="benchmark's digest"):
        evaluate(run, Knowing(run), tmp_path / "out", 2, Ranks())


def test_roc_auc_of_one_label(tmp_path, caplog):
    line = {"prompt": "Is it?", "candidates": ["yes", "no"], "answer": "yes", "metric": "roc_auc"}
    benchmark = JsonLines(write(tmp_path / "a.jsonl", line, {**line, "answer": "no"}))
    benchmark.check_tools()
    answers = [Answer("yes", (), labels=("yes", "no"), log_probabilities=(-1, -2 - k)) for k in range(2)]
    assert benchmark.score(benchmark.items(), answers).metrics == {"ROC AUC": 0, "accuracy": 50}
    with caplog.at_level(logging.WARNING):
        assert benchmark.score(benchmark.items()[:1], answers[:1]).metrics == {"accuracy": 100}
    assert "all 1 items have the label 'yes'" in caplog.text


# ---- mistakes

GOOD = {"prompt": "A pet:", "answer": "a dog"}
RANKED = {**GOOD, "candidates": ["a dog", "a cat"]}
PEOPLE = {**GOOD, "metric": "vqa", "answer": ["a dog"] * 10}
MISTAKES = {
    '{"prompt": "A pet:"': "2 is not valid JSON: ",
    "'prompt'": "2 is not valid JSON: ",
    '"A pet:"': "2: a line must be a JSON object; it is 'A pet:'.",
    "[" * 100_000: "2 is not JSON that can be read: it is nested too deeply.",
    '{"prompt": "\\ud83d", "answer": "a"}': "2 is not valid JSON: ",
    '{"prompt": "A", "answers": "a dog"}': "2: there is no key 'answers'. Did you mean 'answer'?",
    '{"prompt": "A", "xyz": 1}': "2: there is no key 'xyz'. The keys are prompt, images, candidates, answer, id, metri",
    '{"answer": "a dog"}': '2: "prompt" must be a text; it is None.',
    '{"prompt": " ", "answer": "a dog"}': "2: \"prompt\" must be a text; it is ' '.",
    '{"prompt": ["A"], "answer": "a dog"}': "2: \"prompt\" must be a text; it is ['A'].",
    '{"prompt": "A <image>", "answer": "a dog"}': "2: the text has 1 <image> and 0 images are given",
    '{"prompt": "A", "images": ["a.png"], "answer": "a"}': "2: the text has 0 <image> and 1 image is given",
    '{"prompt": "<image>", "images": ["b.png"], "answer": "a"}': "2: The image {folder}/b.png does not exist.",
    '{"prompt": "<image>", "images": ["."], "answer": "a"}': "2: The image {folder} is not a file.",
    '{"prompt": "<image>", "images": [""], "answer": "a"}': "2: \"images\" must be a list of file names; it is [''].",
    '{"prompt": "<image>", "images": [7], "answer": "a"}': '2: "images" must be a list of file names; it is [7].',
    '{"prompt": "<image>", "images": {"a": 1}, "answer": "a"}': '2: "images" must be a list of file names; it is {',
    '{"prompt": "<image>", "images": "http://b/a.png", "answer": "a"}': "2: image 1 is a URL, which is not read here",
    '{"prompt": "A", "answer": 3}': '2: "answer" must be a text or a list of texts; it is 3.',
    '{"prompt": "A", "answer": []}': '2: "answer" must be a text or a list of texts; it is [].',
    '{"prompt": "A", "answer": ""}': "2: \"answer\" must be a text or a list of texts; it is ''.",
    '{"prompt": "A", "answer": "<image>"}': "2: \"answer\" cannot have images; it is '<image>'.",
    '{"prompt": "A"}': '2: the first line has "answer", this one has not.',
    '{"prompt": "A", "answer": "a", "candidates": ["a", "b"]}': '2: this one has "candidates", the first line has not.',
    '{"prompt": "A", "answer": "a", "candidates": ["a"]}': '2: "candidates" must be a list of at least two texts; it i',
    '{"prompt": "A", "answer": "a", "candidates": "ab"}': '2: "candidates" must be a list of at least two texts; it is',
    '{"prompt": "A", "answer": "a", "candidates": ["a", 3]}': '2: "candidates" must be a text or a list of texts; it',
    '{"prompt": "A", "answer": "a", "candidates": ["a", "b", " a"]}': "2: \"candidates\" has 'a' twice.",
    '{"prompt": "A", "answer": 0, "candidates": ["a", "b"]}': '2: "answer" must be one of "candidates", as its text; i',
    '{"prompt": "A", "answer": "a dgo", "candidates": ["a dog", "b"]}': "it is 'a dgo'. Did you mean 'a dog'?",
    '{"prompt": "A", "answer": ["a"], "candidates": ["a", "b"]}': '2: "answer" must be one of "candidates", as its tex',
    '{"prompt": "A", "answer": "a", "id": "1"}': "2: line 1 has the same id, '1'.",
    '{"prompt": "A", "answer": "a", "id": 1.5}': '2: "id" must be a number or a text; it is 1.5.',
    '{"prompt": "A", "answer": "a", "metric": "accuracy"}': '2: "metric" must be one of exact_match, f1, cider, vqa fo',
    '{"prompt": "A", "answer": "a", "metric": "cyder"}': "a line without candidates; it is 'cyder'. Did you mean 'cide",
    '{"prompt": "A", "answer": "a", "metric": ["f1"]}': "a line without candidates; it is ['f1'].",
    '{"prompt": "A", "answer": "a", "metric": "f1"}': "\"metric\" must be the same in all lines; it is 'f1', and 'exac",
    '{"prompt": "A", "answer": "a", "num_beams": 5}': '"num_beams" must be the same in all lines; it is 5, and 1 in th',
    '{"prompt": "A", "answer": "a", "num_beams": 0}': '2: "num_beams" must be a whole number from 1; it is 0.',
    '{"prompt": "A", "answer": "a", "max_new_tokens": true}': '"max_new_tokens" must be a whole number from 1; it is T',
    '{"prompt": "A", "answer": "a", "stop": 3}': '2: "stop" must be a text or a list of texts; it is 3.',
    '{"prompt": "A", "answer": "a", "by_length": true}': '2: "by_length" is for candidates: this line has none.',
}


@pytest.mark.parametrize("line", MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_name_the_line(tmp_path, image, line):
    path = write(tmp_path / "a.jsonl", GOOD, line)
    with pytest.raises(UserError) as error:
        JsonLines(path)
    assert str(error.value).startswith(f"{path}:2")
    assert MISTAKES[line].replace("{folder}", str(tmp_path)) in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (RANKED, {**RANKED, "metric": "roc_auc"}, "'roc_auc', and 'accuracy' in the first."),
        (
            RANKED,
            {**RANKED, "metric": "f1"},
            '"metric" must be one of accuracy, roc_auc for a line with candidates; it',
        ),
        (RANKED, {**RANKED, "num_beams": 2}, '"num_beams" is for generated answers: this line has candidates.'),
        (RANKED, {**RANKED, "by_length": 1}, '"by_length" must be true or false; it is 1.'),
        (RANKED, {**RANKED, "by_length": True}, '"by_length" must be the same in all lines; it is True, and False in'),
        (RANKED, GOOD, 'the first line has "candidates", this one has not.'),
        (
            {**RANKED, "metric": "roc_auc"},
            {**RANKED, "metric": "roc_auc", "candidates": ["a cat", "a dog"]},
            '"candidates" must be the same in all lines for "roc_auc": it is',
        ),
        (PEOPLE, {**PEOPLE, "answer": "a dog"}, '"vqa" needs a list of the answers of at least 4 people, not 1.'),
    ],
)
def test_mistakes_beside_another_line(tmp_path, first, second, message):
    path = write(tmp_path / "a.jsonl", first, second)
    with pytest.raises(UserError) as error:
        JsonLines(path)
    assert str(error.value).startswith(f"{path}:2: ") and message in str(error.value)


def test_roc_auc_takes_two_candidates(tmp_path):
    line = {**RANKED, "candidates": ["a dog", "a cat", "a bird"], "metric": "roc_auc"}
    with pytest.raises(UserError, match=r'a\.jsonl:1: "roc_auc" takes two candidates'):
        JsonLines(write(tmp_path / "a.jsonl", line))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.jsonl has no lines: write one JSON object a line."),
        (b"\n \r\n", "a.jsonl has no lines"),
        (b'[{"prompt": "A"},\n{"prompt": "B"}]', "a.jsonl is a JSON list: write one JSON object a line."),
        (b'{\n "prompt": "A"\n}', "a.jsonl:1 is not valid JSON: "),
        ('{"prompt": "A"}'.encode("utf-16"), "a.jsonl cannot be read: "),
    ],
)
def test_files_that_are_no_json_lines(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError) as error:
        JsonLines(tmp_path / "a.jsonl")
    assert message in str(error.value)


def test_files_that_are_not_there(tmp_path):
    model = write(tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"b\.jsonl does not exist\."):
        plan_runs(model, str(tmp_path / "b.jsonl"), None)
    write(tmp_path / "copa.jsonl", GOOD)
    with pytest.raises(
        UserError, match=r"copa\.jsonl: there is a benchmark 'copa' in the package: give it another name"
    ):
        plan_runs(model, str(tmp_path / "copa.jsonl"), None)
    with pytest.raises(UserError, match=r"no benchmark 'b\.json'\..* your own: FILE\.jsonl or FILE\.py:CLASS\."):
        plan_runs(model, "b.json", tmp_path)
    write(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(UserError, match="a has the splits test, not 'val'"):
        plan_runs(model, str(tmp_path / "a.jsonl"), None, split="val")
    (tmp_path / "other").mkdir()
    write(tmp_path / "other/a.jsonl", GOOD)
    with pytest.raises(UserError, match=r"a\.jsonl and .*other/a\.jsonl are both called 'a'"):
        plan_runs(model, f"{tmp_path}/a.jsonl,{tmp_path}/other/a.jsonl", None)
