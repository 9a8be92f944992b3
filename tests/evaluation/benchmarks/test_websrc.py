"""WebSRC: the questions of the dev websites, with the page's screenshot, its text, or both."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer
from kosmos_plugin.evaluation.benchmarks.websrc import WebSrc, WebSrcImage, WebSrcText, page_text
from kosmos_plugin.evaluation.requests import Generate, distinct_images, prompt_text
from tests.evaluation.releases.websrc import write_websrc


@pytest.fixture
def folder(tmp_path):
    write_websrc(tmp_path)
    return tmp_path


def test_the_questions_of_dev_websites_are_the_items(folder):
    items = WebSrc(folder).items()
    assert [(item.id, item.reference, item.question) for item in items] == [
        ("au010000100001", ["over red mountain"], "What is it called?"),
        ("au010000100002", ['623 ""'], "How big is it?"),
        ("au010000200001", ["runs and sees"], "What is it called?"),
        ("sp090000100001", ["behind sleeps house"], "What is it called?"),
        ("sp090000100002", ['665 ""'], "How big is it?"),
        ("sp090000200001", ["today mountain green"], "What is it called?"),
    ]
    pages = ["auto/01/processed_data/0100001.png"] * 2 + ["auto/01/processed_data/0100002.png"]
    pages += ["sports/09/processed_data/0900001.png"] * 2 + ["sports/09/processed_data/0900002.png"]
    assert [item.screenshot.read() for item in items] == [(folder / page).read_bytes() for page in pages]


@pytest.mark.parametrize(
    ("kind", "prompt"),
    [
        (
            WebSrc,
            "<image> Given the context below from web page, extract the answer from the given text like this: "
            "Qusestion: Who is the publisher of this book? Answer: Penguin Books Ltd. "
            'Context: over red mountain 623 "" Q: How big is it? A:',
        ),
        (
            WebSrcText,
            "Given the context below from web page, extract the answer from the given text like this: "
            "Qusestion: Who is the publisher of this book? Answer: Penguin Books Ltd. "
            'Context: over red mountain 623 "" Q: How big is it? A:',
        ),
        (
            WebSrcImage,
            "<image> Given the context below from web page, extract the answer from the given text like this: "
            "Qusestion: Who is the publisher of this book? Answer: Penguin Books Ltd. Q: How big is it? A:",
        ),
    ],
)
def test_the_prompt_is_the_papers(folder, kind, prompt):
    benchmark = kind(folder)
    item = benchmark.items()[1]
    request = benchmark.request(item, [])
    assert prompt_text(request.prompt) == prompt
    assert distinct_images(request) == ([item.screenshot] if "<image>" in prompt else [])
    assert request == Generate(request.prompt, num_beams=1)


def test_exact_match_and_f1(folder):
    benchmark = WebSrc(folder)
    predictions = ["over red mountain", "623", "cat", "House behind", "665 or more", "Today, mountain green."]
    scores = benchmark.score(benchmark.items(), [Answer(prediction, ()) for prediction in predictions])
    assert scores.metrics == pytest.approx({"EM": 100 * 3 / 6, "F1": 100 * (1 + 1 + 0 + 4 / 5 + 1 / 2 + 1) / 6})


def write_page(folder, html: str):
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    page_text.cache_clear()
    return path


def test_the_text_of_a_page_is_what_its_elements_say(tmp_path):
    html = """<html tid="0"> <head tid="1"><style tid="2">p {}</style><script tid="3">run()</script></head>
    <body tid="4"> <!-- nothing --> <h1 tid="5">  JARRETT\n ALLEN </h1>
    <p tid="6">11.1&nbsp;PPG &amp; <b tid="7">é</b>x</p> <img tid="8" alt="no text"/> </body> </html>"""
    assert page_text(write_page(tmp_path, html)) == "JARRETT ALLEN 11.1 PPG & é x"


TEXTS = st.text(st.characters(exclude_characters="<>&\r\x00", exclude_categories=("Cc", "Cs")), max_size=12)


@settings(deadline=None)
@given(pieces=st.lists(st.tuples(st.sampled_from(["p", "div", "span", "td", "h2"]), TEXTS, TEXTS), max_size=6))
def test_any_text_is_extracted_as_the_official_baseline_does_it(pieces, tmp_path_factory):
    bs4 = pytest.importorskip("bs4")
    body = "".join(f"<{tag}> {text} </{tag}>{after}" for tag, text, after in pieces)
    path = write_page(tmp_path_factory.mktemp("page"), f"<html> <body> {body} </body> </html>")
    page = bs4.BeautifulSoup(path.read_text(encoding="utf-8"), "lxml")
    expected = [str(piece).strip() for piece in page.descendants if type(piece) is bs4.NavigableString]
    assert page_text(path) == " ".join(" ".join(expected).split())


def test_what_is_missing_is_named(folder):
    (folder / "sports/09/dataset.csv").unlink()
    with pytest.raises(UserError, match=r"sports/09/dataset\.csv is not in .*WebSRC_v1\.0_train\+dev\.zip"):
        WebSrc(folder).check_files(few_shot=False)
    (folder / "auto/01/processed_data/0100001.html").unlink()
    with pytest.raises(UserError, match=r"0100001\.html cannot be read"):
        page_text(folder / "auto/01/processed_data/0100001.html")
    (folder / "dataset_split.csv").unlink()
    with pytest.raises(UserError, match=r"websrc: dataset_split\.csv is not in"):
        WebSrc(folder).check_files(few_shot=False)


def test_a_broken_record_is_named(folder):
    path = folder / "auto/01/dataset.csv"
    with open(path, "a") as file:
        file.write("Who?,au010000100003\n")
    with pytest.raises(UserError, match=r"auto/01/dataset\.csv: the row with the id 'au010000100003' has no"):
        WebSrc(folder).items()
    path.write_text("question,id\n")
    with pytest.raises(UserError, match=r"auto/01/dataset\.csv has no column answer"):
        WebSrc(folder).items()
    (folder / "dataset_split.csv").write_text("domain,website,split\nauto,one,dev\n")
    with pytest.raises(UserError, match=r"dataset_split\.csv: website 'one' of 'auto' is not a number"):
        WebSrc(folder).check_files(few_shot=False)
    page = write_page(folder, " ")
    with pytest.raises(UserError, match=r"page\.html is not valid HTML"):
        page_text(page)
