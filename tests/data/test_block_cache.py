"""The cache of blocks: bounded, whole, shared by processes that may be killed or stopped at any time."""

import multiprocessing
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from kosmos_plugin.data.block_cache import BlockCache
from kosmos_plugin.errors import UserError

SIZE = 1000
SPAWN = multiprocessing.get_context("spawn")


def content(name: str) -> bytes:
    return random.Random(name).randbytes(SIZE)


def fetcher(name: str, log: Path | None = None, seconds: float = 0.0):
    def fetch() -> bytes:
        if log is not None:
            with open(log, "a") as file:
                file.write(f"{name}\n")
        time.sleep(seconds)
        return content(name)

    return fetch


def refuse() -> bytes:
    raise AssertionError("fetched again")


def pieces(folder: Path) -> list[Path]:
    return [path for path in (folder / "blocks").glob("??/*") if not path.name.endswith(".tmp")]


def test_a_piece_is_fetched_once_and_read_in_parts(tmp_path):
    cache = BlockCache(tmp_path, 10**6, 10)
    assert cache.read("a", 10, 20, fetcher("a")) == content("a")[10:30]
    assert cache.read("a", 990, 10, refuse) == content("a")[990:]
    cache.fill("a", refuse)
    again = BlockCache(tmp_path, 10**6, 10)
    assert again.read("a", 0, SIZE, refuse) == content("a")
    assert again.read("b", 0, 5, fetcher("b")) == content("b")[:5]


def test_a_piece_that_was_cut_short_is_fetched_again(tmp_path):
    cache = BlockCache(tmp_path, 10**6, 10)
    cache.fill("a", fetcher("a"))
    os.truncate(pieces(tmp_path)[0], 500)
    assert cache.read("a", 400, 200, fetcher("a")) == content("a")[400:600]
    assert cache.read("a", 0, SIZE, refuse) == content("a")


def test_it_never_takes_more_than_its_limit_and_keeps_what_was_used(tmp_path):
    cache = BlockCache(tmp_path, 10 * SIZE, 10)
    for number in range(60):
        cache.read("used", 0, 1, fetcher("used") if number == 0 else refuse)
        cache.read(str(number), 0, 1, fetcher(str(number)))
        assert sum(path.stat().st_size for path in pieces(tmp_path)) <= 10 * SIZE
    assert len(pieces(tmp_path)) >= 8
    assert cache.read("59", 0, SIZE, refuse) == content("59")
    assert cache.read("3", 0, SIZE, fetcher("3")) == content("3")


def test_a_smaller_limit_counts_for_what_is_there(tmp_path):
    BlockCache(tmp_path, 10**6, 10).fill("a", fetcher("a"))
    for number in range(20):
        BlockCache(tmp_path, 10**6, 10).fill(str(number), fetcher(str(number)))
    BlockCache(tmp_path, 4 * SIZE, 10).fill("b", fetcher("b"))
    assert sum(path.stat().st_size for path in pieces(tmp_path)) <= 4 * SIZE


def use(folder: Path, log: Path, seed: int, limit: int, count: int) -> None:
    cache = BlockCache(folder, limit, 20)
    draw = random.Random(seed)
    for _ in range(count):
        name = str(draw.randrange(30))
        offset = draw.randrange(SIZE)
        for _ in range(20):  # others may remove it at any moment
            cache.fill(name, fetcher(name, log, 0.002))
        data = cache.read(name, offset, SIZE - offset, fetcher(name, log, 0.002))
        assert data == content(name)[offset:], name


def in_processes(folder: Path, log: Path, limit: int, count: int = 150) -> None:
    processes = [SPAWN.Process(target=use, args=(folder, log, seed, limit, count)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


def test_processes_share_it_and_fetch_each_piece_once(tmp_path):
    in_processes(tmp_path, tmp_path / "log", 10**6)
    assert sorted((tmp_path / "log").read_text().split()) == sorted(map(str, range(30)))


def test_processes_remove_what_others_read(tmp_path):
    in_processes(tmp_path, tmp_path / "log", 5 * SIZE)
    assert sum(path.stat().st_size for path in pieces(tmp_path)) <= 5 * SIZE


def test_killed_processes_leave_whole_pieces_and_no_lock(tmp_path):
    """20 processes, each killed somewhere."""
    draw = random.Random(0)
    for seed in range(20):
        process = SPAWN.Process(target=use, args=(tmp_path, tmp_path / "log", seed, 8 * SIZE, 10**6))
        process.start()
        for _ in range(500):
            time.sleep(0.01)
            if (tmp_path / "log").exists():
                break
        time.sleep(draw.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert all(path.stat().st_size == SIZE for path in pieces(tmp_path))
    begin = time.monotonic()
    use(tmp_path, tmp_path / "log", 1, 8 * SIZE, 100)
    assert time.monotonic() - begin < 15


def hold(folder: Path, ready: Path) -> None:
    def fetch() -> bytes:
        ready.touch()
        time.sleep(600)
        return b""

    BlockCache(folder, 10**6, 10).fill("a", fetch)


def test_who_waits_for_a_stopped_process_fetches_itself_in_the_end(tmp_path):
    process = SPAWN.Process(target=hold, args=(tmp_path, tmp_path / "ready"))
    process.start()
    try:
        while not (tmp_path / "ready").exists():
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGSTOP)
        cache = BlockCache(tmp_path, 10**6, 1.0)
        begin = time.monotonic()
        cache.fill("a", refuse, wait=False)  # someone fetches it: nothing to do
        assert time.monotonic() - begin < 0.5
        assert cache.read("a", 0, SIZE, fetcher("a")) == content("a")
        assert 0.9 < time.monotonic() - begin < 10
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()


def test_parts_left_by_killed_processes_are_removed_after_a_while(tmp_path):
    cache = BlockCache(tmp_path, 3 * SIZE, 10)
    cache.fill("a", fetcher("a"))
    old, new = (pieces(tmp_path)[0].with_name(f".{name}.tmp") for name in ("old", "new"))
    for path, age in ((old, 7200), (new, 10)):
        path.write_bytes(b"part")
        os.utime(path, (time.time() - age, time.time() - age))
    for number in range(5):
        cache.fill(str(number), fetcher(str(number)))
    assert new.exists() and not old.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"The cache .*file/blocks cannot be written: .* `cache` of the data YAML"):
        BlockCache(tmp_path / "file", 10**6, 10).fill("a", fetcher("a"))


def test_on_a_full_disk_it_takes_less(tmp_path):
    """A disk of 64 KiB, and a limit that does not fit on it."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("a disk cannot be mounted here")
    try:
        cache = BlockCache(tmp_path, 60_000, 10)
        for number in range(100):
            assert cache.read(str(number), 0, SIZE, fetcher(str(number))) == content(str(number))
        assert len(pieces(tmp_path)) > 3
        (tmp_path / "other").write_bytes(bytes(os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_bsize))
        for path in pieces(tmp_path):
            path.unlink()
        (tmp_path / "more").write_bytes(bytes(os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_bsize))
        with pytest.raises(UserError, match="No space left on device"):
            cache.fill("b", fetcher("b"))
        assert not list((tmp_path / "blocks").glob("??/*.tmp"))
    finally:
        subprocess.run(["umount", tmp_path], check=True)
