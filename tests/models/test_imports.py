"""The model depends neither on fairseq nor on the packages that use it."""

import ast
import sys
from pathlib import Path

import pytest

import kosmos_plugin.models

FOLDER = Path(kosmos_plugin.models.__file__).parent
# Modules that models/ may import besides the standard library, inside functions too.
ALLOWED = {
    "torch", "torchscale", "open_clip", "efficientnet_lite_pytorch", "peft", "typing_extensions",
    "kosmos_plugin.models", "kosmos_plugin.errors", "kosmos_plugin.images", "kosmos_plugin.tensor_files",
    "kosmos_plugin.options",
}  # fmt: skip


def imported_modules(path):
    """Full names of all modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_models_import_neither_fairseq_nor_a_higher_layer(path):
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] in sys.stdlib_module_names:
            continue
        assert parts[0] in ALLOWED or ".".join(parts[:2]) in ALLOWED, name
