"""The Dockerfile installs what the package is made of, and its extras exist. It is not built here."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()


def test_what_is_copied_exists_and_is_sent_to_docker():
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [name for line in LINES if line.startswith("COPY") for name in line.split()[1:-1]]
    assert all((ROOT / name).exists() for name in copied) and set(copied) == sent
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages | {"fairseq_hook", "setup.py", "pyproject.toml", "constraints.txt"} <= set(copied)


def test_its_extras_exist():
    [extras] = [line.partition("=")[2].split(",") for line in LINES if line.startswith("ARG EXTRAS=")]
    known = re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert set(extras) <= set(known)


def test_its_python_is_a_tested_one():
    [version] = [match[1] for line in LINES if (match := re.match(r"FROM python:(\d+\.\d+)-", line))]
    assert version in ("3.11", "3.12")
