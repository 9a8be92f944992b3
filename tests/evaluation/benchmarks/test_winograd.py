"""Winograd schemas: answers in place of the pronoun."""

import pytest

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmarks.winograd import Winograd
from kosmos_plugin.evaluation.requests import prompt_text
from tests.evaluation.releases.language import write_winograd

HEAD = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<?xml-stylesheet type="text/xsl" href="WSExample.xsl"?>\n'


def schema(before: str, pronoun: str, after: str, answers: tuple[str, ...], correct: str = "A") -> str:
    return (
        f"<schema>\n<text>\n<txt1>\n{before}\n</txt1>\n<pron> {pronoun} </pron>\n<txt2> \n{after} \n</txt2>\n</text>\n"
        f"<quote>\n<quote1>\n</quote1>\n<pron>{pronoun}</pron>\n</quote>\n<answers>\n"
        f"{''.join(f'<answer> {answer} </answer>' for answer in answers)}\n</answers>\n"
        f"<correctAnswer> {correct}  </correctAnswer>\n<source> (nobody) </source>\n</schema>\n"
    )


def write(folder, *schemas: str) -> Winograd:
    text = f"{HEAD}<collection>\n{''.join(schemas)}</collection>\n"
    (folder / "WSCollection.xml").write_text(text, encoding="iso-8859-1")
    return Winograd(folder)


def asked(benchmark, item, *demonstrations):
    request = benchmark.request(item, demonstrations)
    return [(prompt_text(request.full_prompt(choice)), choice.continuation) for choice in request.choices]


CUP = ("The cup", "The bag")


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        (
            ("The cup does not fit\nin the bag because ", "it", "is too  big."),
            CUP,
            [
                ("The cup does not fit in the bag because the cup", " is too big."),
                ("The cup does not fit in the bag because the bag", " is too big."),
            ],
        ),
        (
            ("The cup is in the bag. ", "It", "is old."),
            CUP,
            [("The cup is in the bag. The cup", " is old."), ("The cup is in the bag. The bag", " is old.")],
        ),
        (("I filled", "it", "."), CUP, [("I filled the cup", " ."), ("I filled the bag", " .")]),
        (
            ("Zoë met Ann and took", "her", "hat"),
            ("Zoë", "My friend Ann"),
            [("Zoë met Ann and took Zoë's", " hat"), ("Zoë met Ann and took my friend Ann's", " hat")],
        ),
        (
            ("Look! There is a bag below the cup!", "It", "falls!"),
            CUP,
            [
                ("Look! There is a bag below the cup! the cup", " falls!"),
                ("Look! There is a bag below the cup! the bag", " falls!"),
            ],
        ),
        (
            ("Theo met Ann as", "she", "ran."),
            ("Theo", "Ann"),
            [("Theo met Ann as Theo", " ran."), ("Theo met Ann as Ann", " ran.")],
        ),
    ],
)
def test_answers_replace_the_pronoun(text, answers, expected, tmp_path):
    benchmark = write(tmp_path, schema(*text, answers))
    assert asked(benchmark, benchmark.items()[0]) == expected


@pytest.mark.parametrize("pronoun", ["my", "his", "Her", "our", "their"])
def test_possessives(pronoun, tmp_path):
    benchmark = write(tmp_path, schema("Ann met Bea and took", pronoun, "hat", ("Ann", "Bea")))
    first, second = asked(benchmark, benchmark.items()[0])
    assert first == ("Ann met Bea and took Ann's", " hat")
    assert second == ("Ann met Bea and took Bea's", " hat")


def test_demonstrations_are_other_schemas(tmp_path):
    benchmark = write(
        tmp_path,
        schema("The cup is in the bag as", "it", "is small.", CUP, "A. "),
        schema("The cup is in the bag as", "it", "is big.", CUP, "B"),
    )
    first, second = benchmark.items()
    assert (first.reference, second.reference) == ("A", "B")
    drawn = benchmark.demonstrations(first, benchmark.training_items(), 1, seed=1)
    assert drawn == [second]
    before = "The cup is in the bag as the bag is big.\n\nThe cup is in the bag as"
    assert asked(benchmark, first, *drawn) == [(f"{before} the cup", " is small."), (f"{before} the bag", " is small.")]


def test_the_first_273_are_measured(tmp_path):
    write_winograd(tmp_path, count=285)
    assert len(Winograd(tmp_path).items()) == 273


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (schema("A", "it", "is", ("The cup",)), "\"answers\" must be 2 texts; it is ['The cup']"),
        (schema("A", "it", "is", CUP, "C"), "\"correctAnswer\" must be one of A, B; it is 'C'"),
        (schema("A", "it", "is", CUP).replace("txt2", "txt3"), '"txt2" must be of type str; it is None'),
        (schema("A", "it", "", CUP), "one of the choices is empty"),
    ],
)
def test_a_broken_schema_is_named(broken, complaint, tmp_path):
    benchmark = write(tmp_path, schema("A", "it", "is", CUP), broken)
    with pytest.raises(UserError) as error:
        benchmark.items()
    assert str(error.value).startswith(f"{tmp_path / 'WSCollection.xml'}, record 2: {complaint}"), error.value


def test_invalid_xml_is_named(tmp_path):
    (tmp_path / "WSCollection.xml").write_text("<collection><schema>")
    with pytest.raises(UserError, match=r"WSCollection\.xml cannot be read"):
        Winograd(tmp_path).items()
