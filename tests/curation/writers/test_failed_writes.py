"""A task that fails leaves neither results nor temporary files; those of a killed task are removed later."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from datatrove.data import Document, Media, MediaType

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.curation.pipeline.bad_records import BadRecords
from kosmos_plugin.curation.pipeline.intermediate import save_array
from kosmos_plugin.curation.pipeline.runner import remove_temporaries
from kosmos_plugin.curation.pipeline.steps import Step
from kosmos_plugin.curation.sampling.hold_out import SPLIT
from kosmos_plugin.curation.writers.binarized_text import Binarize
from kosmos_plugin.curation.writers.shards import WriteShards, caption_record
from tests import tiny


def documents_that_end_in_an_error() -> Iterator[Document]:
    for number in range(9):
        image = Media("0", MediaType.IMAGE, "", media_bytes=b"an image")
        yield Document(f"the cat {number}", str(number), [image], {SPLIT: "valid" if number % 2 else "train"})
    raise OSError("the disk is gone")


@pytest.mark.parametrize("kind", ["shards", "binarized"])
def test_writers_leave_nothing(tmp_path, kind):
    tiny.write_vocabulary(tmp_path / "vocabulary")
    out = tmp_path / "out"
    out.mkdir()
    writer: Step = WriteShards(out, caption_record)
    if kind == "binarized":
        writer = Binarize(out, str(tmp_path / "vocabulary"), 64)
    with pytest.raises(OSError, match="disk is gone"):
        list(writer.run(documents_that_end_in_an_error()))
    assert list(out.iterdir()) == []


def test_lists_and_arrays_leave_nothing(tmp_path):
    with pytest.raises(OSError, match="disk is gone"), BadRecords.written_to(tmp_path, 0) as bad:
        bad.add("a.tar", None, "broken tar", "cut")
        raise OSError("the disk is gone")
    with pytest.raises(TypeError):
        save_array(tmp_path / "a.npy", np.array([NotPickled()], dtype=object))
    assert list(tmp_path.iterdir()) == []


class NotPickled:
    def __reduce__(self):
        raise TypeError("not pickled")


def killed_write(target: Path) -> Path:
    """Create the temporary file that a killed process would leave for `target`."""
    with atomic_path(target) as path:
        path.touch()
    path.touch()
    target.unlink()
    return path


def test_temporaries_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "work").mkdir()
    killed_write(tmp_path / "work" / "a.npy")
    killed_write(tmp_path / "train-00000-000.tar")
    others = [tmp_path / "work" / ".gitignore", tmp_path / "a.tmp"]
    for path in others:
        path.touch()
    remove_temporaries(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(others)
