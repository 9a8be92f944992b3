"""Atomic writes of files and folders: complete or not at all, even with several writers."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from kosmos_plugin.atomic import atomic_path, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("path_type", [str, None])
def test_file(tmp_path, path_type):
    target = tmp_path / "file.txt"
    with atomic_path(str(target) if path_type else target) as path:
        assert path.parent == tmp_path and not path.exists()
        path.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert names(tmp_path) == ["file.txt"]


def test_folder(tmp_path):
    target = tmp_path / "folder"
    with atomic_path(target) as path:
        (path / "inner").mkdir(parents=True)
        (path / "inner" / "file").write_text("whole")
        assert not target.exists()
    assert (target / "inner" / "file").read_text() == "whole"
    assert names(tmp_path) == ["folder"]


def test_a_file_is_replaced(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with atomic_path(target) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("written", ["nothing", "file", "folder"])
def test_a_failure_leaves_nothing(tmp_path, error, written):
    target = tmp_path / "target"
    target.write_text("old")
    with pytest.raises(error), atomic_path(target) as path:
        if written == "file":
            path.write_text("a part")
        elif written == "folder":
            path.mkdir()
            (path / "file").write_text("a part")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("written", ["file", "folder"])
def test_a_folder_is_not_replaced(tmp_path, written):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(OSError), atomic_path(target) as path:
        path.mkdir() if written == "folder" else path.touch()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["target"]


def test_nothing_written(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "target"):
        pass
    assert names(tmp_path) == []


def write_often(target, letter):
    for _ in range(50):
        write_text(target, letter * 10_000)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_concurrent_writers(tmp_path, kind):
    """The last writer wins; a reader never sees a partial file or a mixture of two."""
    target = tmp_path / "file.txt"
    write_text(target, "x" * 10_000)
    if kind == "threads":
        pool = ThreadPoolExecutor(4)
        futures = [pool.submit(write_often, target, letter) for letter in "abcd"]
        running = lambda: not all(future.done() for future in futures)  # noqa: E731
    else:
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=write_often, args=(target, letter)) for letter in "abcd"]
        for process in processes:
            process.start()
        running = lambda: any(process.is_alive() for process in processes)  # noqa: E731
    reads = 0
    while running() or not reads:
        text = target.read_text()
        assert len(text) == 10_000 and len(set(text)) == 1
        reads += 1
    assert set(target.read_text()) <= set("abcd")
    assert names(tmp_path) == ["file.txt"]


def test_write_text_is_utf_8(tmp_path, monkeypatch):
    write_text(tmp_path / "file.txt", "ε → 漢字\n")
    assert (tmp_path / "file.txt").read_bytes() == "ε → 漢字\n".encode()
    assert os.listdir(tmp_path) == ["file.txt"]
