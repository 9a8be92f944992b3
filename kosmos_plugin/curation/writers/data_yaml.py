"""OUT/data.yaml: the corpora that a run has made, ready for training, and the command that trains on them."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kosmos_plugin.atomic import write_text
from kosmos_plugin.data.config import SPLITS

DATA_FILE = "data.yaml"
# Sequences that fit in one micro-batch of 16 rows, so that the command runs as it is.
_SEQUENCES = {"text": 8, "captions": 32, "interleaved": 8}
_FILES = {"text": ("{}*", ".idx"), "captions": ("{}-*", ".tar"), "interleaved": ("{}-*", ".tar")}


def write_data_yaml(out: Path, kind: str, vocabulary: str | None, corpora: Sequence[Mapping[str, Any]] = ()) -> str:
    """Write the data YAML of a run, unless there is one: the user may have edited it since.

    Args:
        out: The run's folder.
        kind: The kind of the stream: text, captions or interleaved.
        vocabulary: The folder of the vocabulary; None for one that the user has yet to name.
        corpora: The corpora, if they are not in `out`.

    Returns:
        What to tell the user: the file's name and the command of a training.
    """
    corpora = list(corpora or _corpora_in(out, kind))
    folder = os.path.relpath(vocabulary, out) if vocabulary is not None else "VOCABULARY"
    stream = {"kind": kind, "sequences_per_update": _SEQUENCES[kind], "corpora": corpora}
    data = {"vocabulary": folder, "streams": {kind: stream}}
    if not (out / DATA_FILE).exists():
        write_text(out / DATA_FILE, yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000))
    has_valid = any("valid" in corpus for corpus in corpora)
    command = (
        f"fairseq-train {shlex.quote(str(out / DATA_FILE))} --task kosmos_multimodal --arch kosmos_tiny \\\n"
        "  --criterion multimodal_cross_entropy --optimizer adam --adam-betas '(0.9, 0.98)' --weight-decay 0.01 \\\n"
        "  --lr 1e-3 --lr-scheduler polynomial_decay --warmup-updates 100 --total-num-update 1000 --max-update 1000 "
        f"\\\n  --batch-size 16{'' if has_valid else ' --disable-validation'}"
    )
    todo = (
        "" if vocabulary is not None else f", after you replace VOCABULARY in {DATA_FILE} by your vocabulary's folder"
    )
    return f"The data YAML is {out / DATA_FILE}. Train on it{todo}:\n\n{command}\n"


def _corpora_in(out: Path, kind: str) -> list[dict[str, str]]:
    """The corpora in a folder and, for text, in its own folders."""
    pattern, ending = _FILES[kind]
    folders = [out, *sorted(path for path in out.iterdir() if path.is_dir())] if kind == "text" else [out]
    corpora = []
    for folder in folders:
        prefix = "" if folder == out else f"{folder.name}/"
        patterns = {split: pattern.format(split) for split in SPLITS}
        found = {
            split: f"{prefix}{name}{'' if kind == 'text' else ending}"
            for split, name in patterns.items()
            if next(folder.glob(f"{name}{ending}"), None) is not None
        }
        if "train" in found:
            corpora.append({"name": folder.name if folder != out else kind, **found})
    return corpora
