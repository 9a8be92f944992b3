"""Images of pages in tars, as `tar -x` would write them."""

import io
import json
import tarfile

import pytest

from kosmos_plugin.curation.readers.image_index import tar_images
from tests import tiny


def found(tar) -> dict[str, bytes]:
    data = tar.read_bytes()
    return {key: data[offset : offset + size] for key, offset, size in tar_images(str(tar))}


def test_json_need_not_be_beside_its_image(tmp_path):
    about = [(f"{i}.json", json.dumps({"url": f"http://a.com/{i}.png"}).encode()) for i in range(3)]
    tiny.write_tar(tmp_path / "0.tar", [*((f"{i}.jpg", b"image %d" % i) for i in range(3)), *reversed(about)])
    assert found(tmp_path / "0.tar") == {f"a.com/{i}.png": b"image %d" % i for i in range(3)}


def test_links_replaced_files_and_joined_tars(tmp_path):
    tiny.write_tar(tmp_path / "0.tar", [("a.com/1.png", b"old"), ("./a.com/1.png", b"new"), ("a.com/2.png", b"two")])
    with tarfile.open(tmp_path / "0.tar", "a") as archive:
        for name, type, target in (("a.com/3.png", b"1", "a.com/2.png"), ("b/4.png", b"2", "../a.com/1.png")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = type, target
            archive.addfile(link)
    tiny.write_tar(tmp_path / "1.tar", [("a.com/5.png", b"five")])
    (tmp_path / "0.tar").write_bytes((tmp_path / "0.tar").read_bytes() + (tmp_path / "1.tar").read_bytes())
    two = {"a.com/2.png": b"two", "a.com/3.png": b"two"}
    assert found(tmp_path / "0.tar") == {"a.com/1.png": b"new", **two, "b/4.png": b"new", "a.com/5.png": b"five"}


def test_a_sparse_image_is_refused_by_name(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, headers in (("a.png", {}), ("b.png", {"GNU.sparse.map": "512,512", "GNU.sparse.size": "1024"})):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = 512, headers
            archive.addfile(info, io.BytesIO(b"x" * 512))
    images = tar_images(str(tmp_path / "0.tar"))
    assert next(images)[0] == "a.png"
    with pytest.raises(tarfile.TarError, match=r"b\.png is a sparse file; write the tar again without --sparse"):
        next(images)


def test_images_before_the_damage_are_used(tmp_path):
    tiny.write_tar(tmp_path / "0.tar", [("a.png", b"x" * 600), ("b.png", b"y" * 600)])
    (tmp_path / "0.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:2000])
    images = tar_images(str(tmp_path / "0.tar"))
    assert next(images)[0] == "a.png"
    with pytest.raises(tarfile.TarError):
        list(images)
