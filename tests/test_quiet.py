"""Importing the package and using the API do not affect the root logger, the warning filters and standard error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import tiny

ROOT = Path(__file__).parents[1]
# Libraries that add warning filters when they are imported come first.
STATE = """
import logging, sys, warnings
import numpy, scipy.sparse, scipy.special, sympy, torch

def state():
    root = logging.getLogger()
    return root.level, list(root.handlers), root.manager.disable, list(warnings.filters)

before = state()
"""


def run(program: str, *arguments: str | Path) -> str:
    """Run a program that must not write to standard error; return its standard output."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, timeout=200
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint of one update."""
    folder = tmp_path_factory.mktemp("quiet")
    data = tiny.write_data(folder / "data")
    tiny.train(data, folder, "--max-update", "1", "--disable-validation")
    return folder / "checkpoint_last.pt"


def test_importing_imports_neither_fairseq_nor_torch():
    assert run("import sys, kosmos_plugin; print({'torch', 'fairseq', 'numpy'} & sys.modules.keys())") == "set()\n"


def test_registering_changes_nothing_of_the_process():
    assert run(f"{STATE}\nimport kosmos_plugin\nkosmos_plugin.register()\nprint(state() == before)") == "True\n"


@pytest.mark.parametrize(
    "module",
    [
        "fairseq_modules.task",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("generation.generator", "checkpoints.convert")),
    ],
)
def test_any_module_can_be_imported_first(module):
    program = f"""{STATE}
import kosmos_plugin.{module}
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY
kosmos_plugin.register()
print(state() == before, "kosmos_tiny" in ARCH_MODEL_REGISTRY, "kosmos_multimodal" in TASK_REGISTRY)
"""
    assert run(program) == "True True True\n"


def test_threads_find_the_plugin_registered():
    program = """
import threading, kosmos_plugin
found = []
def register():
    kosmos_plugin.register()
    from fairseq.tasks import TASK_REGISTRY
    found.append("kosmos_multimodal" in TASK_REGISTRY)
threads = [threading.Thread(target=register) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(found)
"""
    assert run(program) == "[True, True, True, True]\n"


def test_loading_a_vocabulary_changes_nothing_of_the_process(checkpoint):
    program = f"""{STATE}
from kosmos_plugin.vocabulary import Vocabulary
Vocabulary.load(sys.argv[1])
print(state() == before)
"""
    assert run(program, checkpoint.parent / "data" / "vocabulary") == "True\n"


def test_using_the_api_changes_nothing_of_the_process(checkpoint):
    program = f"""{STATE}
import kosmos_plugin
kosmos = kosmos_plugin.load(sys.argv[1])
kosmos.generate("a dog", max_new_tokens=2)
kosmos.score("a", candidates=["dog", "cat"])
print(state() == before)
"""
    assert run(program, checkpoint) == "True\n"


def test_what_a_user_has_set_up_stays():
    program = f"""{STATE}
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
before = state()
import kosmos_plugin
kosmos_plugin.register()
assert state() == before
logging.info("still heard")
"""
    assert run(program) == "still heard\n"


def test_the_command_prints_its_answer_only(checkpoint):
    program = "import sys; from fairseq_cli_ext.generate import cli_main; cli_main(sys.argv[1:])"
    output = run(program, "--path", checkpoint, "--prompt", "a dog", "--max-new-tokens", "2")
    assert len(output.splitlines()) == 1


def test_fairseq_train_prints_no_warnings_of_hydra_and_no_false_shared_parameters(checkpoint):
    data = checkpoint.parent / "data"
    arguments = [data / "data.yaml", *tiny.TRAIN_OPTIONS.split(), "--vision-model", data / "clip.json"]
    done = subprocess.run(
        [sys.executable, "-m", "fairseq_cli.train", *arguments, "--max-update", "1", "--disable-validation"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=checkpoint.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "ydra" not in done.stdout.replace("fairseq-hydra", "")
    shared = [line for line in done.stdout.splitlines() if "detected shared parameter" in line]
    assert len(shared) == 1 and shared[0].endswith("decoder.embed_tokens.weight <- decoder.output_projection.weight")


def test_shared_parameters_are_found_as_fairseq_finds_them():
    from kosmos_plugin.compat.shared_parameters import shared_parameters

    embed, project = torch.nn.Embedding(3, 2), torch.nn.Linear(2, 3, bias=False)
    project.weight = embed.weight
    model = torch.nn.Sequential(embed, torch.nn.Linear(2, 2, bias=False), project)
    assert shared_parameters(model) == [["0.weight", "2.weight"]]
