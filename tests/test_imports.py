"""The packages below fairseq_modules/ work without fairseq."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(len(names), sys.modules.get("fairseq"))
"""


def import_all(room: str, program: str) -> tuple[int, str]:
    """The number of imported modules, and fairseq's module (or None)."""
    command = [sys.executable, "-W", "ignore", "-c", program, f"kosmos_plugin.{room}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    count, fairseq = done.stdout.strip().split(" ", 1)
    return int(count), fairseq


@pytest.mark.parametrize("room", ["data", "models"])
def test_imports_without_fairseq(room):
    files = [path for path in (ROOT / "kosmos_plugin" / room).rglob("*.py") if path.name != "__init__.py"]
    block_fairseq = "import sys, kosmos_plugin; sys.modules['fairseq'] = None"
    assert import_all(room, f"{block_fairseq}\n{IMPORT_ALL}") == (len(files), "None")


def test_data_does_not_load_fairseq():
    """models/ does load it: TorchScale imports fairseq if it is installed."""
    assert import_all("data", IMPORT_ALL)[1] == "None"
