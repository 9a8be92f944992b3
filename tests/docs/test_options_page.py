"""docs/options.md is generated: it is current, and it names every option."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from kosmos_plugin.models.config import ARCHITECTURES, KosmosConfig

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generate_options", DOCS / "generate_options.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
