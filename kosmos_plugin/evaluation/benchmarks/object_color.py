"""MemoryColor and ColorTerms (§4.9.2): the color of an object, asked in text only.

Releases:
- MemoryColor (Norlund et al., 2021): `memory_colors.jsonl`, 109 objects with descriptor ("a", "the inside of a", or
  empty), item and label. https://github.com/lovhag/measure-visual-commonsense-knowledge (memory_colors/data).
- ColorTerms (Bruni et al., 2012): `color-concrete-objects.csv`, 52 objects with the columns object and color, as VaLM's
  repository (by authors of the paper) has it: https://github.com/Victorwz/VaLM (data/object_color). Its copy of
  MemoryColor differs in one label: there a pumpkin is red.

The prompt is that of Table 15, with the object's descriptor if it has one ("the sky"). The paper's 11 colors are the
basic color terms of Berlin and Kay (1969): MemoryColor has all of them as labels, ColorTerms all but purple, and both
spell "grey".
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from kosmos_plugin.evaluation.benchmarks.language import Option, RankedText, continuations
from kosmos_plugin.evaluation.files import read_table

COLORS = ("black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")


class MemoryColor(RankedText):
    """MemoryColor."""

    name = "memory_color"
    title = "MemoryColor"
    section = "4.9.2"
    release = "memory_color"
    source = (
        "memory_colors.jsonl of https://github.com/lovhag/measure-visual-commonsense-knowledge (memory_colors/data)"
    )
    splits = ("test",)
    file = "memory_colors.jsonl"
    fields: ClassVar = {"descriptor": str, "item": str}

    def options(self, record: Mapping[str, Any]) -> tuple[Option, ...]:
        return _color_options(f"{record['descriptor']} {record['item']}".strip())


class ColorTerms(RankedText):
    """ColorTerms."""

    name = "color_terms"
    title = "ColorTerms"
    section = "4.9.2"
    release = "color_terms"
    source = "color-concrete-objects.csv of https://github.com/Victorwz/VaLM (data/object_color)"
    splits = ("test",)
    file = "color-concrete-objects.csv"
    fields: ClassVar = {"object": str}
    answer_field = "color"

    def records(self, split: str) -> list[dict[str, Any]]:
        return read_table(self.folder / self.file, (*self.fields, self.answer_field))

    def options(self, record: Mapping[str, Any]) -> tuple[Option, ...]:
        return _color_options(record["object"])


def _color_options(thing: str) -> tuple[Option, ...]:
    return continuations(f"The color of {thing} is?", {color: color for color in COLORS})
