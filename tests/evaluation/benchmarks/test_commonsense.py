"""Visual commonsense (§4.9.2): exact prompts, items as in the release, and errors that name what is broken."""

import pytest

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmarks.object_color import ColorTerms, MemoryColor
from kosmos_plugin.evaluation.benchmarks.relative_size import RelativeSize
from kosmos_plugin.evaluation.requests import prompt_text
from tests.evaluation.releases.commonsense import write_color_terms, write_memory_color, write_relative_size
from tests.evaluation.releases.language import write_json_lines

COLORS = ["black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow"]


def asked(benchmark):
    """For each item: the prompt, the continuations that are ranked, and the right one."""
    found = []
    for item in benchmark.items():
        request = benchmark.request(item, [])
        assert [choice.continuation for choice in request.choices] == [f" {choice.label}" for choice in request.choices]
        (prompt,) = {prompt_text(choice.prompt) for choice in request.choices}
        found.append((prompt, [choice.label for choice in request.choices], item.reference))
    return found


def test_relative_size(tmp_path):
    (tmp_path / "sizePairsFull.txt").write_text("sofa cat\n\nbus watermelon\n")
    choices = ["Yes", "No"]
    pairs = [("Is sofa larger than cat?", choices, "Yes"), ("Is bus larger than watermelon?", choices, "Yes")]
    turned = [("Is cat larger than sofa?", choices, "No"), ("Is watermelon larger than bus?", choices, "No")]
    assert asked(RelativeSize(tmp_path)) == pairs
    assert asked(RelativeSize(tmp_path, "both_orders")) == pairs + turned


@pytest.mark.parametrize("split", ["pairs", "both_orders"])
def test_a_line_without_two_objects_is_named(split, tmp_path):
    (tmp_path / "sizePairsFull.txt").write_text("sofa cat\npolar bear cat\n")
    with pytest.raises(
        UserError,
        match=r'sizePairsFull\.txt, record 2: "objects" must be 2 texts; it is \[\'polar\', \'bear\', \'cat\'\]',
    ):
        RelativeSize(tmp_path, split).items()


def test_memory_color(tmp_path):
    objects = [
        {"descriptor": "the", "item": "sky", "label": "blue", "picture": "x", "picture_path": "y"},
        {"descriptor": "", "item": "steel", "label": "grey"},
        {"descriptor": "the inside of a", "item": "watermelon", "label": "red"},
    ]
    write_json_lines(tmp_path / "memory_colors.jsonl", objects)
    assert asked(MemoryColor(tmp_path)) == [
        ("The color of the sky is?", COLORS, "blue"),
        ("The color of steel is?", COLORS, "grey"),
        ("The color of the inside of a watermelon is?", COLORS, "red"),
    ]
    write_json_lines(tmp_path / "memory_colors.jsonl", [*objects, {"descriptor": "", "item": "x", "label": "gray"}])
    with pytest.raises(
        UserError, match=r'memory_colors\.jsonl, record 4: "label" must be one of black, blue.*; it is \'gray\''
    ):
        MemoryColor(tmp_path).items()


def test_color_terms(tmp_path):
    path = tmp_path / "color-concrete-objects.csv"
    path.write_text("object,color\nash,grey\npig,pink\n")
    assert asked(ColorTerms(tmp_path)) == [
        ("The color of ash is?", COLORS, "grey"),
        ("The color of pig is?", COLORS, "pink"),
    ]
    path.write_text("object,color\nash\n")
    with pytest.raises(
        UserError, match=r'color-concrete-objects\.csv, record 1: "color" must be one of black, .*; it is None'
    ):
        ColorTerms(tmp_path).items()
    path.write_text("thing,color\nash,grey\n")
    with pytest.raises(UserError, match="has no column object"):
        ColorTerms(tmp_path).items()


@pytest.mark.parametrize(
    ("benchmark", "write"),
    [(RelativeSize, write_relative_size), (MemoryColor, write_memory_color), (ColorTerms, write_color_terms)],
)
def test_a_miniature_release_is_read(benchmark, write, tmp_path):
    write(tmp_path, count=22)
    found = benchmark(tmp_path)
    assert [item.id for item in found.items()] == [f"{found.split}/{number}" for number in range(1, 23)]
    assert len({prompt for prompt, _, _ in asked(found)}) == 22
    assert not found.few_shot and found.shots == (0,)
    (tmp_path / found.file).unlink()
    with pytest.raises(UserError) as error:
        found.check_files(few_shot=False)
    assert found.file in str(error.value) and found.source in str(error.value)
