"""The generated pages docs/options.md and docs/commands.md are current and name every option."""

import dataclasses
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from kosmos_plugin.models.config import ARCHITECTURES, KosmosConfig

DOCS = Path(__file__).parents[2] / "docs"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return load("generate_options")


def test_the_page_is_current(generator):
    written = (DOCS / "options.md").read_text(encoding="utf-8")
    assert written == generator.options_page(), "run: python docs/generate_options.py"


def test_the_page_names_every_option_and_architecture(generator):
    page = generator.options_page()
    for field in dataclasses.fields(KosmosConfig):
        assert f"`--{field.name.replace('_', '-')}`" in page
    for name in ARCHITECTURES:
        assert f"| `{name}` |" in page
    for option in ("--max-skipped-rate", "--image-decoding", "--adam-betas"):
        assert f"| `{option}` |" in page


def test_choices_types_and_defaults(generator):
    lines = {line.split(" | ")[0]: line for line in generator.options_page().splitlines()}
    assert "| `crop`, `stretch` | `crop` |" in lines["| `--image-fit`"]
    assert "| `xpos`, `sinusoidal`, `both` | `xpos` |" in lines["| `--positions`"]
    assert "| integer | `64` |" in lines["| `--image-tokens`"]
    assert "| flag |  |" in lines["| `--compile`"]
    assert "| text |  |" in lines["| `--decoder-weights`"]
    assert "`--decoder-layers 12`" in lines["| `kosmos_base`"]


def test_the_page_of_the_paper_is_current():
    """It is made from the results in examples/paper, whose modules need the quickstart extra."""
    pytest.importorskip("matplotlib")
    page = load("generate_paper").paper_page()
    assert (DOCS / "paper.md").read_text(encoding="utf-8") == page, "run: python docs/generate_paper.py"


def test_the_page_of_commands_is_current():
    """It is made from the parsers: every command and sub-command, with its options."""
    generator = load("generate_commands")
    page = generator.commands_page()
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == page, "run: python docs/generate_commands.py"
    for heading in ("## kosmos-generate", "## kosmos-inspect", "### kosmos-prepare pages", "### kosmos-prepare show"):
        assert f"\n{heading}\n" in page
    assert re.search(r"\| `--num-beams N` \| .* \(default: 1\) \|", page)
