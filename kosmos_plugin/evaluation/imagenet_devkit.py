"""ImageNet's development kit (ILSVRC2012_devkit_t12): the category of each validation image.

    data/meta.mat                                    the synsets: ILSVRC2012_ID, WordNet id, number of children, …
    data/ILSVRC2012_validation_ground_truth.txt      a line for each validation image: its ILSVRC2012_ID

It is read from its archive or from the folder that this unpacks to.
"""

import gzip
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

from kosmos_plugin.errors import UserError, missing_package
from kosmos_plugin.evaluation.files import named

FOLDER = "ILSVRC2012_devkit_t12"
ARCHIVE = f"{FOLDER}.tar.gz"
META = "data/meta.mat"
GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_MAX_META_BYTES = 64 << 20  # the release's has under 1 MB
_SECONDS = 120
# Only the categories have no children; the other synsets are above them in WordNet's tree.
_READ_META = f"""
import io, json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({4 << 30}, {4 << 30}))
from scipy.io import loadmat
synsets = loadmat(io.BytesIO(sys.stdin.buffer.read()), squeeze_me=True)["synsets"]
print(json.dumps([[int(s["ILSVRC2012_ID"]), str(s["WNID"])] for s in synsets if s["num_children"] == 0]))
"""


def read_devkit(path: Path) -> tuple[dict[int, str], list[int]]:
    """Read the development kit.

    Args:
        path: The archive or the unpacked folder.

    Returns:
        (ILSVRC2012_ID → WordNet id of the 1,000 categories, the ILSVRC2012_ID of each validation image).

    Raises:
        UserError: It cannot be read.
    """
    try:
        meta, ground_truth = _read_folder(path) if path.is_dir() else _read_archive(path)
        wordnet_ids = dict(_categories(meta))
        labels = [int(label) for label in ground_truth.split()]
    except UserError:
        raise
    except Exception as error:  # gzip's and tarfile's are of many types
        raise UserError(f"{path} cannot be read as ImageNet's development kit: {named(str(error))}") from None
    unknown = sorted(set(labels) - set(wordnet_ids))
    if unknown:
        raise UserError(f"{path}: the label {unknown[0]} of {GROUND_TRUTH} is not a category of {META}.")
    return wordnet_ids, labels


def _read_folder(folder: Path) -> tuple[bytes, bytes]:
    return (folder / META).read_bytes(), (folder / GROUND_TRUTH).read_bytes()


def _read_archive(path: Path) -> tuple[bytes, bytes]:
    whole = gzip.decompress(path.read_bytes())  # a few MB
    with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as archive:
        meta, ground_truth = (archive.extractfile(f"{FOLDER}/{name}") for name in (META, GROUND_TRUTH))
        if meta is None or ground_truth is None:
            raise ValueError(f"{META} or {GROUND_TRUTH} is not a file")
        return meta.read(), ground_truth.read()


def _categories(meta: bytes) -> list[tuple[int, str]]:
    """(ILSVRC2012_ID, WordNet id) of each category.

    A process of its own reads the file: one that is damaged can crash scipy's reader or ask for any amount of memory.
    """
    try:
        import scipy.io  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_package(f"Reading {META}", error, "evaluation") from None
    if len(meta) > _MAX_META_BYTES:
        raise ValueError(f"{META} has {len(meta):,} bytes; the release's has under a million")
    try:
        reader = subprocess.run(
            [sys.executable, "-c", _READ_META], input=meta, capture_output=True, timeout=_SECONDS, check=True
        )
        return [(int(number), str(wordnet_id)) for number, wordnet_id in json.loads(reader.stdout)]
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1] if error.returncode > 0 and lines else "its reader crashed"
        raise ValueError(f"{META} is damaged or is no MATLAB file ({reason})") from None
    except subprocess.TimeoutExpired:
        raise ValueError(f"{META} is damaged (it was not read in {_SECONDS} seconds)") from None
