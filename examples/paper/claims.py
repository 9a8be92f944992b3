"""The paper's claims, and the comparisons that test each of them here.

Every claim is a difference between two trainings, two prompts, or a model and chance. It holds if all its comparisons
do: the 95% interval of a difference lies above 0. Controls must not: with wrong pictures a model may not do better than
chance.
"""

from dataclasses import dataclass

from captions import INSTRUCTIONS
from few_shot import SHOTS

MARGIN = 5.0  # points by which a result may be lower and still count as no worse


@dataclass(frozen=True)
class Measure:
    """A training's mean score in some benchmarks."""

    label: str
    training: str
    benchmarks: tuple[str, ...]


@dataclass(frozen=True)
class Chance:
    """The score of a guess, in percent."""

    label: str
    percent: float


@dataclass(frozen=True)
class Comparison:
    """`second` against `first`."""

    first: Measure | Chance
    second: Measure
    kind: str = "above"  # above, no worse (by MARGIN at most), or not above (a control)


@dataclass(frozen=True)
class Claim:
    """A row of the page."""

    name: str  # for CLAIMS
    section: str  # of the paper, with its tables
    statement: str
    reported: str  # the paper's figures
    comparisons: tuple[Comparison, ...]
    experiment: str  # what was done here
    by_default: bool = True
    curve: tuple[Measure, ...] = ()  # by number of demonstrations, for a plot


def measure(label: str, benchmark: str, training: str = "base") -> Measure:
    return Measure(label, training, (benchmark,))


def shots(name: str, training: str = "base") -> tuple[Measure, ...]:
    return tuple(measure(f"{count} demonstrations", f"{name}_{count}", training) for count in SHOTS)


WORDS = shots("words")
WORDS_WITHOUT = measure("8, trained without interleaved documents", "words_8", "captions_only")
HALF, SIXTH = Chance("chance", 50.0), Chance("chance", 100 / 6)
STYLES = shots("styles")
FOLLOWED = tuple(f"instructions_{kind}" for kind in INSTRUCTIONS)
LANGUAGE = ("text_words", "color_told", "size_told", "sentiment_in_text")
ABOUT_PICTURES = ("captions", "questions")

CLAIMS = (
    Claim(
        "few-shot",
        "§3.1, Tables 3 and 5",
        "Interleaved documents give the ability to learn from demonstrations.",
        "VQAv2: 51.0 zero-shot, 51.4, 51.8 and 51.4 with 2, 4 and 8 demonstrations",
        (
            Comparison(WORDS[0], WORDS[3]),
            Comparison(WORDS_WITHOUT, WORDS[3]),
            Comparison(HALF, WORDS[3]),
            Comparison(HALF, measure("8, pictures shuffled", "words_8_shuffled"), "not above"),
        ),
        "Two things that no training document with pictures gives a word get new words by the demonstrations. Of four "
        "candidates, each thing with each word, one is right; who knows the thing, but not its word, is right half of "
        "the time. The training without interleaved documents has captions in their place.",
        curve=WORDS,
    ),
    Claim(
        "demonstrations",
        "§4.1, Tables 3 and 5",
        "More demonstrations make captions and answers better.",
        "VizWiz: 29.2 zero-shot, 31.4, 35.3 and 39.0 with 2, 4 and 8 demonstrations",
        (
            Comparison(STYLES[0], STYLES[1]),
            Comparison(STYLES[1], STYLES[2]),
            Comparison(STYLES[1], STYLES[3]),
            Comparison(Chance("chance", 100 / 35), measure("8, pictures shuffled", "styles_8_shuffled"), "not above"),
        ),
        "Captions in a form that no training document has, as `see cat / red`, which only the demonstrations show; a "
        "quarter of them are in another form. The things are in colors in which no training picture shows them. A "
        "caption counts if it is exactly right; of 35 things one is right by chance.",
        curve=STYLES,
    ),
    Claim(
        "instructions",
        "§3.3, Table 14",
        "Instructions that are learned in text alone are followed about pictures, and nothing else gets worse.",
        "Flickr30k +1.9, VQAv2 +4.3, VizWiz +1.3",
        (
            Comparison(
                Measure("before", "base", FOLLOWED), Measure("after instruction tuning", "instructions", FOLLOWED)
            ),
            Comparison(
                Measure("captions and questions, before", "base", ABOUT_PICTURES),
                Measure("captions and questions, after", "instructions", ABOUT_PICTURES),
                "no worse",
            ),
            Comparison(
                Chance("chance", 100 / 8),
                Measure(
                    "after, pictures shuffled",
                    "instructions",
                    ("instructions_two_words_shuffled", "instructions_upper_case_shuffled"),
                ),
                "not above",
            ),
        ),
        "Five instructions (a name in upper case, in one word, in two, a sentence, yes or no), tuned on descriptions "
        "in text with the ratio of Table 19, then given about pictures: the share of answers that are exactly right.",
    ),
    Claim(
        "language-model",
        "§4.9, Tables 13 and 16",
        "The multimodal model is as good at language as a model of the same text alone, and better at what only "
        "pictures show.",
        "language 61.1 and 60.5; color of things 61.4 and 76.1, relative size 92.7 and 94.2",
        (
            Comparison(
                Measure("language, text alone", "text_only", LANGUAGE),
                Measure("language, multimodal", "base", LANGUAGE),
                "no worse",
            ),
            Comparison(
                measure("color, text alone", "color_pictured", "text_only"),
                measure("color, multimodal", "color_pictured"),
            ),
            Comparison(
                measure("size, text alone", "size_pictured", "text_only"), measure("size, multimodal", "size_pictured")
            ),
        ),
        "Things whose color and size no text and no caption says, only documents with their pictures; asked in text "
        "alone. Language: words bound in text, colors and sizes that texts do say, sentiment of opinions.",
    ),
    Claim(
        "descriptions",
        "§4.7, Table 12",
        "A description in the prompt is enough to recognize a new class.",
        "61.7 without descriptions, 90.0 with",
        (
            Comparison(measure("without", "not_described"), measure("with descriptions", "described")),
            Comparison(HALF, measure("with, pictures shuffled", "described_shuffled"), "not above"),
            Comparison(HALF, measure("without", "not_described"), "not above"),
        ),
        "Two new words are described in text, `red star semu. blue circle riba.`, and a picture shows one of the two; "
        "no training document has these shapes in these colors. Four candidates, as for few-shot.",
    ),
    Claim(
        "chain-of-thought",
        "§4.5, Table 9",
        "Describing a picture first, then deciding, is better than deciding at once.",
        "67.1 at once, 72.9 with a rationale",
        (
            Comparison(measure("at once", "sentiment"), measure("described first", "chain_of_thought")),
            Comparison(HALF, measure("described first, pictures shuffled", "chain_of_thought_shuffled"), "not above"),
        ),
        "The sentiment of an opinion in a picture, as `not good`: what it is depends on both words. Training says in "
        "text alone what is positive and what is negative.",
    ),
    Claim(
        "reading",
        "§4.3, Table 7",
        "Text in pictures is read without OCR.",
        "Rendered SST-2: 67.1 of 50 by chance",
        (
            Comparison(Chance("chance", 100 / 80), measure("read", "reading")),
            Comparison(Chance("chance", 100 / 80), measure("read, pictures shuffled", "reading_shuffled"), "not above"),
        ),
        "80 opinions of one or two words in the fonts of a family that no training picture has (Computer Modern): the "
        "share that is read exactly.",
    ),
    Claim(
        "web-pages",
        "§4.4, Table 8",
        "Questions about web pages are answered, better with the extracted text than without.",
        "WebSRC: EM 15.8 with the text, 3.8 without; a language model 7.6",
        (
            Comparison(measure("without the text", "page_without_text"), measure("with the text", "page_with_text")),
            Comparison(Chance("chance", 100 / 9), measure("without the text", "page_without_text")),
            Comparison(
                Chance("chance", 100 / 9),
                measure("without, pictures shuffled", "page_without_text_shuffled"),
                "not above",
            ),
        ),
        "Rendered lists of two things and their numbers; one is asked for, out of nine numbers.",
    ),
    Claim(
        "matrices",
        "§4.2, Table 6",
        "Nonverbal reasoning: the next image of a matrix is found above chance.",
        "22 and 26 of 17 by chance",
        (
            Comparison(SIXTH, measure("right of six", "raven_iq")),
            Comparison(SIXTH, measure("panels shuffled", "raven_iq_shuffled"), "not above"),
        ),
        "Matrices of 2×2 and 3×3 panels whose forms or numbers change along the rows, and colors along the columns, "
        "none of them trained on; candidates ranked by the probability of “Yes” after the paper's prompt.",
    ),
    Claim(
        "last-vision-layer",
        "§3.2",
        "Training the last layer of the vision encoder is better than freezing all of it.",
        "not measured in the paper",
        (
            Comparison(
                Measure("all frozen", "all_frozen", ABOUT_PICTURES),
                Measure("last layer trained", "last_layer", ABOUT_PICTURES),
            ),
        ),
        "500 updates each, from the same language model; captions and questions about things in unseen colors.",
        by_default=False,
    ),
)


def sides(claim: Claim) -> list[Measure]:
    """All that a claim measures."""
    compared = [side for each in claim.comparisons for side in (each.first, each.second) if isinstance(side, Measure)]
    return list(dict.fromkeys([*claim.curve, *compared]))


def benchmarks_of(claims: list[Claim]) -> dict[str, list[str]]:
    """Training → the benchmarks that it is asked for these claims."""
    needed: dict[str, dict[str, None]] = {}
    for side in (side for claim in claims for side in sides(claim)):
        needed.setdefault(side.training, {}).update(dict.fromkeys(side.benchmarks))
    return {training: list(names) for training, names in needed.items()}
