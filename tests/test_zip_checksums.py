"""One wrong byte anywhere in a file of torch.save is found, and no whole file is refused."""

import os
import random
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from kosmos_plugin.errors import UserError
from kosmos_plugin.tensor_files import read_pt
from kosmos_plugin.zip_checksums import Damaged, verify


@pytest.fixture
def path(tmp_path) -> Path:
    state = {"a": torch.arange(20.0), "b": torch.ones(3, dtype=torch.bfloat16), "c": [1, "x"], "d": torch.zeros(0)}
    with open(tmp_path / "state.pt", "wb") as file:
        torch.save(state, file)
    return tmp_path / "state.pt"


def flipped(data: bytes, byte: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[byte] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_every_flipped_byte(path, bits):
    whole = path.read_bytes()
    assert verify(path)
    for byte in range(len(whole)):
        for bit in range(bits):
            path.write_bytes(flipped(whole, byte, (byte + bit) % 8))
            with pytest.raises(Damaged):
                verify(path)


def test_cuts_and_inserted_bytes(path):
    whole = path.read_bytes()
    for byte in range(0, len(whole), 13):
        for data in (whole[:byte], whole[:byte] + b"Z" + whole[byte:]):
            path.write_bytes(data)
            with pytest.raises(Damaged):
                verify(path)


def test_what_is_wrong_is_said(path):
    whole = path.read_bytes()
    at = whole.index(torch.arange(20.0).numpy().tobytes())
    path.write_bytes(flipped(whole, at + 9, 3))
    assert torch.load(path, weights_only=True)["a"][2] != 2  # torch does not notice
    message = f"{path} is damaged: its record archive/data/0 (80 bytes) does not match its checksum."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_pt(path)


def test_a_file_is_verified_again_once_it_has_changed(path):
    read_pt(path)
    whole = path.read_bytes()
    path.write_bytes(flipped(whole, 70, 0))
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match="is damaged"):
        read_pt(path)


def test_large_records_are_read_in_parts(tmp_path):
    weights = torch.randn(1_200_000)
    torch.save({"weights": weights}, tmp_path / "large.pt")
    whole = (tmp_path / "large.pt").read_bytes()
    assert verify(tmp_path / "large.pt")
    rng = random.Random(0)
    for byte in (len(whole) // 2, *(rng.randrange(len(whole)) for _ in range(20))):
        (tmp_path / "large.pt").write_bytes(flipped(whole, byte, rng.randrange(8)))
        with pytest.raises(Damaged):
            verify(tmp_path / "large.pt")


@pytest.mark.parametrize("zip64", [False, True])
def test_an_archive_of_another_writer(path, zip64, tmp_path):
    with zipfile.ZipFile(path) as theirs, zipfile.ZipFile(tmp_path / "again.pt", "w") as ours:
        for name in theirs.namelist():
            with ours.open(zipfile.ZipInfo(name), "w", force_zip64=zip64) as member:
                member.write(theirs.read(name))
    assert verify(tmp_path / "again.pt")
    assert read_pt(tmp_path / "again.pt", mmap=False)["c"] == [1, "x"]


def test_a_file_without_checksums(path, tmp_path, caplog):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"x": torch.ones(5)}, tmp_path / "without.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert not verify(tmp_path / "without.pt")
    read_pt(tmp_path / "without.pt")
    assert "without.pt was written without checksums" in caplog.text


@pytest.mark.slow
def test_more_than_four_gigabytes(tmp_path):
    """Then sizes and places have 64 bits, in fields of their own."""
    if shutil.disk_usage(tmp_path).free < 6e9:
        pytest.skip("needs 6 GB")
    file = tmp_path / "large.pt"
    torch.save({"before": torch.ones(10), "large": torch.zeros(1_100_000_000), "behind": torch.ones(11)}, file)
    assert verify(file)
    size, rng = file.stat().st_size, random.Random(0)
    with open(file, "r+b") as changed:
        for byte in (rng.randrange(2_000), rng.randrange(size), *rng.sample(range(size - 1_500, size), 30)):
            changed.seek(byte)
            old = changed.read(1)[0]
            for new in (old ^ (1 << rng.randrange(8)), old):
                changed.seek(byte)
                changed.write(bytes([new]))
                changed.flush()
                if new != old:
                    with pytest.raises(Damaged):
                        verify(file)
    file.unlink()
