"""Tars of every kind that GNU tar, bsdtar and Python write, against what `tar -x` makes of them."""

import io
import os
import random
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from kosmos_plugin.data.corpus_index import open_corpus_index
from kosmos_plugin.data.documents import BrokenRecord
from kosmos_plugin.data.shard_index import tar_records
from kosmos_plugin.data.shards import ShardedDocuments, caption_document
from kosmos_plugin.data.tar_files import BrokenShard, files_of_tar, read_pieces
from tests import tiny

WRITERS = {
    **{f"GNU tar, {form}": f"tar --format={form}" for form in ("v7", "ustar", "oldgnu", "gnu", "pax")},
    **{f"GNU tar, sparse, {form}": f"tar --format={form} --sparse" for form in ("oldgnu", "gnu")},
    **{
        f"GNU tar, sparse, pax {version}": f"tar --format=pax --sparse --sparse-version={version}"
        for version in ("0.0", "0.1", "1.0")
    },
    **{f"bsdtar, {form}": f"bsdtar --format={form} --read-sparse" for form in ("v7", "ustar", "gnutar", "pax")},
}


def gnu_tar() -> bool:
    try:
        return "GNU tar" in subprocess.run(["tar", "--version"], capture_output=True, text=True).stdout
    except OSError:
        return False


needs_gnu_tar = pytest.mark.skipif(not gnu_tar(), reason="needs GNU tar")


def ours(tar: Path) -> dict[str, bytes]:
    return {os.path.normpath(name): read_pieces(str(tar), pieces) for name, pieces in files_of_tar(tar)}


def extracted(tar: Path, *options: str) -> dict[str, bytes]:
    """What GNU tar writes."""
    folder = tar.with_suffix(".extracted")
    folder.mkdir()
    subprocess.run(["tar", *options, "-C", folder, "-xf", tar], check=True, capture_output=True)
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    shutil.rmtree(folder)
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder of files, some with holes, links and names of all kinds."""
    folder = tmp_path_factory.mktemp("files")
    draw = random.Random(0)

    def write(name: str, *parts: tuple[int, int], size: int) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        with (folder / name).open("wb") as file:
            for start, length in parts:
                file.seek(start)
                file.write(draw.randbytes(length))
            file.truncate(size)

    write("a.bmp", (0, 5000), (200_000, 5000), (400_000, 1000), size=500_000)
    write("b.bmp", (81_920, 100), size=90_000)
    write("c.bmp", *((20_000 * i, 5000) for i in range(60)), size=1_200_000)  # its map takes several blocks
    write("d.bmp", size=100_000)
    write("e.bmp", size=0)
    write("f.jpg", (0, 700), size=700)
    write("in a folder/é.jpg", (0, 512), size=512)
    for name in "abcdef":
        write(f"{name}.txt", (0, 5), size=5)
    os.link(folder / "f.jpg", folder / "g.jpg")
    (folder / "h.jpg").symlink_to("g.jpg")
    (folder / "in a folder" / "i.jpg").symlink_to("../a.bmp")
    (folder / "j.jpg").symlink_to("/nowhere/j.jpg")
    return folder


@needs_gnu_tar
@pytest.mark.parametrize("writer", WRITERS)
def test_every_format(tmp_path, files, writer):
    command = WRITERS[writer].split()
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    subprocess.run([*command, "-C", files, "-cf", tmp_path / "0.tar", "."], check=True)
    expected = {str(path.relative_to(files)): path.read_bytes() for path in files.rglob("*") if path.is_file()}
    assert len(expected) == 16 and extracted(tmp_path / "0.tar") == expected
    assert ours(tmp_path / "0.tar") == expected
    if "sparse" in writer:
        assert (tmp_path / "0.tar").stat().st_size < 700_000


@needs_gnu_tar
@pytest.mark.parametrize("form", ["ustar", "gnu", "pax"])
def test_long_names(tmp_path, form):
    """ustar has 255 bytes for a name, GNU and pax any number."""
    folder = "folder-" * 14 if form == "ustar" else "/".join(["folder-" * 30] * 5)
    name = f"{folder}/{'é' * 40}.jpg"
    with tarfile.open(tmp_path / "0.tar", "w", format={"ustar": 0, "gnu": 1, "pax": 2}[form]) as archive:
        for member in (name, name.replace(".jpg", ".txt")):
            info = tarfile.TarInfo(member)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"123"))
    assert ours(tmp_path / "0.tar") == extracted(tmp_path / "0.tar")
    (record,), _ = tar_records(tmp_path / "0.tar")
    assert record.key == name.removesuffix(".jpg") and set(record.members) == {"jpg", "txt"}


@needs_gnu_tar
def test_later_files_replace_earlier_ones(tmp_path):
    """As `tar --append` leaves them, far apart and under another spelling of the name."""
    members = [("a.jpg", b"1"), ("a.txt", b"old"), ("b.jpg", b"2"), ("b.txt", b"two"), ("./a.txt", b"new")]
    tiny.write_tar(tmp_path / "0.tar", members)
    assert ours(tmp_path / "0.tar") == extracted(tmp_path / "0.tar") == {
        "a.jpg": b"1", "a.txt": b"new", "b.jpg": b"2", "b.txt": b"two"
    }  # fmt: skip
    records, replaced = tar_records(tmp_path / "0.tar")
    assert [(record.key, record.read("txt")) for record in records] == [("a", b"new"), ("b", b"two")]
    assert replaced == [("a", "./a.txt")]
    tiny.write_tar(tmp_path / "1.tar", [*members, ("a.TXT", b"x")])
    assert tar_records(tmp_path / "1.tar")[1] == [("a", "./a.txt"), ("a", "a.TXT")]


@needs_gnu_tar
@pytest.mark.parametrize("form", ["v7", "ustar", "gnu", "pax"])
@pytest.mark.parametrize("blocks", [2, 20, 200])
def test_joined_tars(tmp_path, form, blocks):
    """By `cat`; GNU tar reads on with --ignore-zeros."""
    parts = []
    for part in range(3):
        names = [f"{part}{i}.{extension}" for i in range(4) for extension in ("jpg", "txt")]
        for name in names:
            (tmp_path / name).write_bytes(name.encode() * 100)
        options = [f"--format={form}", f"--blocking-factor={blocks}"]
        subprocess.run(["tar", *options, "-cf", "part", *names], cwd=tmp_path, check=True)
        parts.append((tmp_path / "part").read_bytes())
    (tmp_path / "0.tar").write_bytes(b"".join(parts))
    assert ours(tmp_path / "0.tar") == extracted(tmp_path / "0.tar", "--ignore-zeros")
    records, _ = tar_records(tmp_path / "0.tar")
    assert [record.key for record in records] == [f"{part}{i}" for part in range(3) for i in range(4)]
    (tmp_path / "1.tar").write_bytes(b"".join(parts)[: -len(parts[-1]) + 700])
    with pytest.raises(BrokenShard):
        tar_records(tmp_path / "1.tar")
    (tmp_path / "2.tar").write_bytes(parts[0] + b"not a tar" * 100)
    with pytest.raises(BrokenShard, match=r"what follows the end of a tar, at byte .*, is not another one"):
        tar_records(tmp_path / "2.tar")


def test_members_that_are_not_adjacent(tmp_path):
    """As `tar` without --sort=name finds them in a folder."""
    members = [member for i in range(50) for member in tiny.caption_members(f"{i}", f"dog {i}", b"image %d" % i)]
    random.Random(0).shuffle(members)
    tiny.write_tar(tmp_path / "0.tar", members)
    documents = ShardedDocuments([str(tmp_path / "0.tar")], caption_document)
    assert len(documents) == 50
    for document in map(documents.__getitem__, range(50)):
        image, text = document.segments
        number = document.id.rpartition("/")[2]
        assert (image.read(), text.text) == (b"image " + number.encode(), f"dog {number}")


def test_dots_in_names(tmp_path):
    members = [(f"photo.{year}.{extension}", b"a") for year in (2020, 2021) for extension in ("jpg", "txt")]
    tiny.write_tar(tmp_path / "0.tar", members)
    with pytest.raises(BrokenRecord, match=r"no image \(but photo\.2020\.jpg: a key ends at the first dot"):
        ShardedDocuments([str(tmp_path / "0.tar")], caption_document)[0]


@pytest.mark.parametrize("command", ["gzip", "bzip2", "xz", "zstd"])
def test_compressed_tars_are_named_as_such(tmp_path, command):
    if shutil.which(command) is None:
        pytest.skip(f"needs {command}")
    tiny.write_tar(tmp_path / "0.tar", [("0.jpg", b"1"), ("0.txt", b"a")])
    data = subprocess.run([command, "-c", tmp_path / "0.tar"], capture_output=True, check=True).stdout
    (tmp_path / "1.tar").write_bytes(data)
    with pytest.raises(BrokenShard, match=r"1\.tar is compressed, .* (gunzip|bunzip2|unxz|unzstd) it\."):
        open_corpus_index([str(tmp_path / "1.tar")])


@needs_gnu_tar
def test_damaged_tars_give_files_or_are_broken(tmp_path, files):
    """3,000 damaged ones, sparse and linked, with headers whose checksums are right."""
    folder = tmp_path / "few"
    folder.mkdir()
    for name in ("b.bmp", "d.bmp", "f.jpg", "b.txt"):
        subprocess.run(["cp", "--sparse=always", files / name, folder / name], check=True)
    os.link(folder / "f.jpg", folder / "g.jpg")
    draw = random.Random(0)
    begin = time.perf_counter()
    for options in ("--format=pax --sparse-version=1.0", "--format=pax --sparse-version=0.0", "--format=gnu"):
        subprocess.run(["tar", *options.split(), "--sparse", "-C", folder, "-cf", tmp_path / "0.tar", "."], check=True)
        whole = (tmp_path / "0.tar").read_bytes()
        blocks = range(0, len(whole), 512)
        headers = [i for i in blocks if whole[i + 257 : i + 262] == b"ustar"]
        maps = [i for i in blocks if b"GNU.sparse" in whole[i : i + 512] or whole[i : i + 2] in (b"1\n", b"2\n")]
        for _ in range(1000):
            damaged = bytearray(whole)
            for _ in range(draw.randint(1, 3)):
                block = draw.choice(headers + maps)
                damaged[block + draw.randrange(512)] = draw.choice([draw.randrange(256), *b"0179 \0\n=,"])
            for block in headers:
                damaged[block + 148 : block + 156] = b" " * 8
                damaged[block + 148 : block + 156] = b"%06o\0 " % sum(damaged[block : block + 512])
            damaged = damaged[: draw.choice([len(damaged), draw.randrange(len(damaged))])]
            (tmp_path / "1.tar").write_bytes(damaged)
            try:
                tar_records(tmp_path / "1.tar")
            except BrokenShard as error:
                assert "1.tar" in str(error) and "\n" not in str(error)
    assert time.perf_counter() - begin < 60


def test_map_of_a_sparse_file_without_an_end(tmp_path):
    """tarfile alone reads on for its rest forever."""
    info = tarfile.TarInfo("0.jpg")
    info.size = 512
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    header = info.tobuf(tarfile.PAX_FORMAT)
    (tmp_path / "0.tar").write_bytes(header + b"99999\n".ljust(512, b"1"))
    with pytest.raises(BrokenShard, match=r"0\.tar"):
        tar_records(tmp_path / "0.tar")


def test_sparse_file_of_an_absurd_size(tmp_path):
    info = tarfile.TarInfo("0.jpg")
    info.size = 512
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": f"{2**60}"}
    header = info.tobuf(tarfile.PAX_FORMAT)
    (tmp_path / "0.tar").write_bytes(header + f"1\n{2**60}\n0\n".encode().ljust(512, b"\0") + bytes(1024))
    with pytest.raises(BrokenShard, match="sparse file of 1,152,921"):
        tar_records(tmp_path / "0.tar")
