"""examples/notebook/kosmos.ipynb: every cell runs, on a tiny model in place of the quickstart's."""

import random
import re
from pathlib import Path

import pytest

from tests import tiny

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "notebook" / "kosmos.ipynb"


def test_it_is_committed_without_outputs_and_its_links_lead_somewhere():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        for target in re.findall(r"\]\(([^)]+)\)", cell.source):
            assert (NOTEBOOK.parent / target).exists(), target


@pytest.mark.slow
def test_every_cell_runs(data, tmp_path, monkeypatch):
    checkpoint = tiny.train(data, tmp_path, "--max-update", 2, "--disable-validation", "--tokens-per-sample", 512)
    (tmp_path / "1.png").write_bytes(tiny.png(random.Random(0)))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    paths = notebook.cells[1]
    assert paths.source.startswith("checkpoint = ")
    paths.source = f"checkpoint, vocabulary, picture = {str(checkpoint)!r}, None, {str(tmp_path / '1.png')!r}"
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(NOTEBOOK.parent))
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(str(output.get("text", output.get("data", ""))) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
    assert "parameters on cpu" in text and "image/png" in text and "positions are used" in text
