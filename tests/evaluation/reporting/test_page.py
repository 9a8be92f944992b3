"""The page of a result: each request and its answer, with all text escaped."""

import base64
import io
import itertools
import random
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.evaluation.benchmark import Answer, Item, Scores
from kosmos_plugin.evaluation.benchmarks.superglue import BoolQ
from kosmos_plugin.evaluation.reporting.page import (
    MAX_ITEMS,
    common_prefix,
    evenly_spaced,
    thumbnail,
    without_prefix,
    write_page,
)
from kosmos_plugin.evaluation.requests import Choice, Choose, Generate, distinct_prompts
from kosmos_plugin.evaluation.results import Result
from tests import tiny
from tests.evaluation.releases.language import write_json_lines
from tests.evaluation.test_requests import SEGMENTS, flat

RNG = random.Random(2)
HOSTILE = '</title></style><script>alert(1)</script>"><img src=x onerror=alert(2)>{{ 7 * 7 }}&amp;'
VOID = {"meta", "img", "input", "br"}


def image(name: str = "a.png", size: int = 32) -> Image:
    data = tiny.png(RNG, size)
    return Image(lambda: data, name)


def result(items: int, shots: int = 0, **options) -> Result:
    return Result(
        **{
            "benchmark": "a_benchmark",
            "title": "A benchmark",
            "section": "4.3",
            "split": "test",
            "shots": shots,
            "items": items,
            "problems": 0,
            "metrics": {"accuracy": 50.0, "F1": 61.25},
            "interval": (40.0, 60.0),
            "folder": f"a_benchmark/test-{shots}-shot",
            "checkpoint": "model.pt",
            "seed": 7,
            **options,
        }
    )


class Page(HTMLParser):
    """Parses a page: the text of each card and demonstration, all tags and attributes, and images by card."""

    def __init__(self, page: str):
        super().__init__()
        self.in_demonstration = False
        self.cards, self.text, self.tags, self.attributes, self.open, self.links = [], "", set(), [], [], []
        self.verdicts, self.folded, self.pictures, self.demonstrations = [], [], [], []
        self.feed(page)
        assert not self.open, "what is opened is closed"

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        attributes = dict(attributes)
        if tag == "section":
            self.cards.append("")
            self.verdicts.append(attributes["class"].removeprefix("card sheet").strip())
            self.pictures.append([])
        if tag == "details":
            self.folded.append("")
        if ("class", "demonstration") in attributes.items():
            self.demonstrations.append("")
            self.in_demonstration = True
        if tag == "img" and self.cards:
            self.pictures[-1].append((attributes["src"], attributes["alt"], "details" in self.open))
        if tag == "a":
            self.links.append(attributes["href"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.in_demonstration = self.in_demonstration and tag != "div"
        if tag in ("dt", "summary"):
            self.handle_data(" ")

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if self.in_demonstration:
            self.demonstrations[-1] += data
        if "details" in self.open:
            self.folded[-1] += data
        elif "section" in self.open:
            self.cards[-1] += data


def write(tmp_path, result, items, answers, scores, requests) -> Page:
    path = tmp_path / "page.html"
    write_page(path, result, items, answers, scores, requests)
    return Page(path.read_text("utf-8"))


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def test_a_score_that_is_not_a_grade_is_shown_as_it_is(tmp_path):
    items = [Item(str(k), ["a cat"]) for k in range(2)]
    answers = [Answer(text, ("An image of",)) for text in ("a cat", "a dog")]
    scores = Scores({"CIDEr": 150.0}, (3.0, 0.0), are_grades=False)
    page = write(
        tmp_path,
        result(2, metrics=scores.metrics),
        items,
        answers,
        scores,
        lambda item: Generate((Text("An image of"),)),
    )
    assert page.verdicts == ["", ""]
    cards = [squeezed(card) for card in page.cards]
    assert "answer a cat · CIDEr 300.0 reference" in cards[0] and "answer a dog · CIDEr 0.0 reference" in cards[1]


def test_generated_answers(tmp_path):
    items = [Item(str(k), ["a cat", "a cat", "cats"]) for k in range(5)]
    problem = "3,000 tokens and 32 new ones do not fit in 2,048"
    predictions = ["a cat", "cats", "", "a dog"]
    answers = [Answer(prediction, ("<image> Question",)) for prediction in predictions]
    answers.append(Answer("", ("<image> Question",), problem=problem))
    pictures = {item.id: image(f"{item.id}.png") for item in items}

    def request(item):
        return Generate((pictures[item.id], Text(f"Question: what is {item.id}? Answer:")))

    page = write(tmp_path, result(5, problems=1), items, answers, Scores({}, (1.0, 0.3, 0.0, 0.0, 0.0)), request)
    assert page.verdicts == ["right", "partial", "wrong", "wrong", "unasked"]
    cards = [squeezed(card) for card in page.cards]
    assert cards[0] == "Question: what is 0? Answer: answer ✓ a cat reference a cat ×2 · cats item 0"
    assert "answer ◐ cats · accuracy 30.0 reference" in cards[1]
    assert "answer ✗ (empty) reference" in cards[2]
    assert f"not asked {problem} reference" in cards[4]
    assert [[name for _, name, _ in of_card] for of_card in page.pictures] == [[f"{k}.png"] for k in range(5)]
    head = squeezed(page.text[: page.text.index("Question")])
    for said in ("A benchmark", "§4.3", "test", "0 shots", "5 items, 1 did not fit", "seed 7", "model.pt"):
        assert said in head
    assert "50.0 accuracy (40.0–60.0)" in head and "61.2 F1" in head
    assert "All items are shown." in head and "all 5 right 1 partial 1 wrong 2 unasked 1" in head
    assert page.links == ["../../report.html", "predictions.jsonl"]
    assert "script" not in page.tags


def test_choices_with_their_probabilities(tmp_path):
    choices = tuple(Choice((Text("The sky is"),), f" {word}", word) for word in ("red", "blue", "green"))
    answer = Answer("blue", ("The sky is",), (), ("red", "blue", "green"), (-3.0, -1.0, -2.0), "blue", "blue")
    page = write(tmp_path, result(1), [Item("1", "red")], [answer], Scores({}, (0.0,)), lambda item: Choose(choices))
    card = squeezed(page.cards[0])
    assert card == "The sky is red ← reference 9.0% blue 66.5% green 24.5% answer ✗ blue reference red item 1"
    assert ("title", "log-probability -1.000") in page.attributes
    assert page.attributes.count(("class", "chosen")) == 1


def test_choices_of_different_prompts_show_what_differs(tmp_path):
    """For example Raven's candidates and Winograd's names."""
    before, candidates = image("before.png"), [image(f"{letter}.png") for letter in "ab"]
    request = Choose(
        tuple(
            Choice((Text("Here is:"), before, Text("Then:"), candidate, Text("Is it correct?")), " Yes", letter)
            for letter, candidate in zip("ab", candidates, strict=True)
        )
    )
    answer = Answer("b", (), (), ("a", "b"), (-2.0, -1.0), "b", "b")
    page = write(tmp_path, result(1), [Item("1", "b")], [answer], None, lambda item: request)
    assert [name for _, name, _ in page.pictures[0]] == ["before.png", "a.png", "b.png"]
    assert "Here is:Then: Is it correct? Yes a 26.9% Is it correct? Yes b ← reference 73.1%" in squeezed(page.cards[0])
    request = Choose(tuple(Choice((Text(f"It fell. {who} ran because"),), " it hurt.", who) for who in ("Ann", "Amy")))
    page = write(tmp_path, result(1), [Item("1", "Amy")], [answer], None, lambda item: request)
    assert squeezed(page.cards[0]).startswith("It fell. Ann ran because it hurt. Ann 26.9% Amy ran because it hurt.")


def test_demonstrations_are_folded(tmp_path):
    shown = [image(f"{k}.png", 400) for k in range(3)]
    demonstrations = ((shown[0], Text("It is a cat")), (shown[1], Text("It is a dog")))
    request = Generate((shown[2], Text("It is")), demonstrations=demonstrations)
    answer = Answer("a car", ())
    page = write(tmp_path, result(1, 2), [Item("1", "a car")], [answer], None, lambda item: request)
    assert squeezed(page.folded[0]) == "2 demonstrations It is a cat It is a dog"
    assert squeezed(page.cards[0]).startswith("It is answer a car")
    assert [(name, folded) for _, name, folded in page.pictures[0]] == [
        ("0.png", True), ("1.png", True), ("2.png", False)
    ]  # fmt: skip
    assert [picture_of(source).size for source, _, _ in page.pictures[0]] == [(80, 80), (80, 80), (160, 160)]


def test_demonstrations_with_blank_lines_are_shown_as_they_are(tmp_path):
    """Demonstrations and the question have passages of several paragraphs."""
    record = "Snow falls.\n\nIt is  white."
    passages = [f"{record} <{number}>" for number in range(3)]
    (tmp_path / "BoolQ").mkdir()
    for split, numbers in (("train", (0, 1)), ("val", (2,))):
        lines = [{"passage": passages[number], "question": "is it white", "label": number == 0} for number in numbers]
        write_json_lines(tmp_path / "BoolQ" / f"{split}.jsonl", lines)
    benchmark = BoolQ(tmp_path)
    [item], pool = benchmark.items(), benchmark.training_items()
    request = benchmark.request(item, pool)
    answer = Answer("no", (), (), ("no", "yes"), (-1.0, -2.0), "no", "no")
    page = write(tmp_path, result(1, 2), [item], [answer], None, lambda item: request)
    shown = [
        f"{passages[0]}\nQuestion: is it white?\nAnswer: yes\n\n",
        f"{passages[1]}\nQuestion: is it white?\nAnswer: no\n\n",
    ]
    question = f"{passages[2]}\nQuestion: is it white?\nAnswer:"
    assert page.demonstrations == shown
    assert page.cards[0].strip().startswith(question)
    [full_prompt] = distinct_prompts(request)
    assert full_prompt == (Text("".join(shown) + question),), "the model reads one text"


def test_long_demonstrations_are_shown_whole(tmp_path):
    long = " ".join(f"word{k}" for k in range(500))
    request = Generate((Text("Q:"),), demonstrations=((image(), Text(long)), (Text("short"),)))
    page = write(tmp_path, result(1, 2), [Item("1", "it")], [Answer("it", ())], None, lambda item: request)
    assert page.demonstrations == [long, "short"] and len(page.folded) == 1


def test_the_start_of_a_long_text_is_folded(tmp_path):
    words = [f"word{k}" for k in range(500)]
    long, short = Text(" ".join(words) + " Q: what? A:"), Text(" ".join(words[:100]))
    for text in (long, short):
        request = Generate((image(), text))
        page = write(tmp_path, result(1), [Item("1", "it")], [Answer("it", ())], None, lambda item: request)  # noqa: B023
        shown = squeezed(page.cards[0]).partition(" answer it")[0]
        if text is short:
            assert shown == short.text and not page.folded
        else:
            count, _, folded = squeezed(page.folded[0]).partition(" characters ")
            assert f"{folded} {shown}" == long.text and count == f"the first {len(folded) + 1:,}"
            assert shown.endswith("A:") and 300 < len(shown) <= 400
            assert len(page.pictures[0]) == 1


def test_a_chain_of_thought_shows_both_steps(tmp_path):
    picture = image()

    def request(item):
        choices = lambda text: Choose(tuple(Choice((picture, Text(text)), f" {word}", word) for word in ("no", "yes")))  # noqa: E731
        return Generate((picture, Text("Introduce:")), then=lambda rationale: choices(f"{rationale} So? Answer:"))

    answer = Answer("yes", (), (), ("no", "yes"), (-3.0, -1.0), "yes", "yes", rationale="it is good")
    page = write(tmp_path, result(1), [Item("1", "yes")], [answer], Scores({}, (1.0,)), request)
    card = squeezed(page.cards[0])
    assert card.startswith(
        "Introduce: rationale it is good it is good So? Answer: no 11.9% yes ← reference 88.1% answer ✓ yes"
    )
    assert len(page.pictures[0]) == 2
    unasked = Answer("", (), problem="too long")
    page = write(tmp_path, result(1), [Item("1", "yes")], [unasked], Scores({}, (0.0,)), request)
    assert squeezed(page.cards[0]).startswith("Introduce: not asked too long")


def test_at_most_200_items_are_drawn_evenly(tmp_path):
    items = [Item(f"number {k}", None) for k in range(1001)]
    answers = [Answer("it", ())] * len(items)
    page = write(
        tmp_path, result(1001, metrics={}, interval=None), items, answers, None, lambda item: Generate((Text("?"),))
    )
    numbers = [int(re.search(r"number (\d+)", card)[1]) for card in page.cards]
    assert len(numbers) == MAX_ITEMS and numbers == evenly_spaced(1001, 200)
    assert {after - before for before, after in itertools.pairwise(numbers)} <= {5, 6}
    assert "200 of 1,001 items are shown, evenly spaced over the split." in page.text
    assert "The split has no public answers." in page.text and "reference" not in page.cards[0]
    assert set(page.verdicts) == {""}


@given(st.integers(0, 10_000), st.integers(1, 300))
def test_even_draws(count, most):
    drawn = evenly_spaced(count, most)
    assert len(drawn) == min(count, most) == len(set(drawn)) and sorted(drawn) == drawn
    assert all(0 <= number < count for number in drawn)


def test_no_text_becomes_html(tmp_path):
    """Neither text of the release, of the model, nor of the command line; nor is it read as a template."""
    broken = Image(lambda: b"no image", HOSTILE)

    def request(item):
        choose = Choose(tuple(Choice((broken, Text(HOSTILE + label)), HOSTILE, label) for label in ("a", HOSTILE)))
        shown = ((image(HOSTILE), Text(HOSTILE)),)
        return Generate((image(), Text(HOSTILE)), then=lambda rationale: choose, demonstrations=shown)

    answers = [
        Answer(HOSTILE, (HOSTILE,), (HOSTILE,), ("a", HOSTILE), (-1.0, -2.0), HOSTILE, HOSTILE, HOSTILE),
        Answer("", (HOSTILE,), problem=HOSTILE),
    ]
    items = [Item(HOSTILE, {HOSTILE: [HOSTILE]}), Item(HOSTILE + "2", HOSTILE)]
    hostile = {name: HOSTILE for name in ("title", "section", "split", "checkpoint")}
    page = write(
        tmp_path, result(2, 1, **hostile, metrics={HOSTILE: 1.0}), items, answers, Scores({}, (0.5, 0)), request
    )
    assert page.tags == set(
        "html head meta title style body main p a h1 div b span input label section details summary img "
        "table tr th td dl dt dd".split()
    )
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(source.startswith("data:image/jpeg;base64,") for of_card in page.pictures for source, _, _ in of_card)
    assert page.text.count(HOSTILE) >= 20
    assert page.text.count(f"[{HOSTILE}: cannot be shown]") == 1


def picture_of(source: str) -> Pillow.Image:
    data = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))
    return Pillow.open(io.BytesIO(data))


def encoded(picture: Pillow.Image, kind: str) -> Image:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return Image(buffer.getvalue)


@pytest.mark.parametrize(("size", "expected"), [((640, 320), (160, 80)), ((90, 300), (48, 160)), ((20, 10), (20, 10))])
def test_thumbnails_keep_the_shape(size, expected):
    for kind in ("JPEG", "PNG"):
        shown = picture_of(thumbnail(encoded(Pillow.new("RGB", size, (200, 30, 60)), kind), 160))
        assert shown.format == "JPEG" and shown.size == expected
        assert all(abs(one - other) < 6 for one, other in zip(shown.getpixel((5, 5)), (200, 30, 60), strict=True))


def test_thumbnails_of_any_kind_of_image():
    """Transparent pixels are white, as the model sees them."""
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK"):
        picture = Pillow.new("RGBA", (30, 30), (0, 0, 0, 0)).convert(mode)
        assert picture_of(thumbnail(encoded(picture, "TIFF"), 160)).mode == "RGB"
    clear = encoded(Pillow.new("RGBA", (30, 30), (0, 0, 0, 0)), "PNG")
    assert picture_of(thumbnail(clear, 160)).getpixel((3, 3)) == (255, 255, 255)
    assert thumbnail(Image(lambda: b"no image"), 160) == ""


@settings(max_examples=300)
@given(st.lists(SEGMENTS, min_size=1, max_size=4))
def test_a_common_prefix_and_the_rest_make_the_prompt(prompts):
    prefix = common_prefix(prompts)
    for prompt in prompts:
        assert flat(prefix) + flat(without_prefix(prefix, prompt)) == flat(prompt)
    if len(set(prompts)) == 1:
        assert prefix == prompts[0]
