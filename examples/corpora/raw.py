"""Unpacked Debian packages → formats that kosmos-prepare reads.

python raw.py PACKAGES OUT

OUT/texts/anarchism.jsonl.gz    the pages of a book, each a JSON line
OUT/texts/fortunes/*.txt        sayings, separated by lines of "%"
OUT/texts/jargon.txt.gz         the Jargon File, separated by empty lines
OUT/pictures/00000/…            Tux Paint's pictures with captions, as img2dataset's "files"
OUT/crawl/opencv.warc.gz        OpenCV's tutorials with their images, as a crawler records them
"""

import argparse
import gzip
import io
import json
import mimetypes
import shutil
from collections.abc import Iterator
from pathlib import Path

from fastwarc.warc import WarcRecord, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text

from kosmos_plugin.atomic import atomic_path

# The made-up address of a site with the tutorials; links and images in them are relative.
SITE = "https://opencv.example/"
IMAGES = ("png", "jpg", "jpeg", "gif")


def write_book(pages: Path, out: Path) -> None:
    with gzip.GzipFile(out, "wb", mtime=0) as file:
        for page in sorted(pages.glob("*.html")):
            text = extract_plain_text(page.read_text("utf-8", errors="replace"), main_content=True, alt_texts=False)
            file.write(json.dumps({"text": text, "page": page.name}).encode() + b"\n")


def write_sayings(fortunes: Path, out: Path) -> None:
    out.mkdir()
    for collection in sorted(fortunes.iterdir()):
        if not collection.suffix and not collection.is_symlink():  # beside each is an index, NAME.dat
            shutil.copyfile(collection, out / f"{collection.name}.txt")


def captioned(stamps: Path) -> Iterator[tuple[Path, str]]:
    """Pictures with their captions: the first line of the text file beside each, before the translations."""
    for picture in sorted(stamps.rglob("*.png")):
        text = picture.with_suffix(".txt")
        if text.is_file():
            yield picture, text.read_text("utf-8", errors="replace").partition("\n")[0].strip()


def write_pictures(stamps: Path, out: Path) -> None:
    """Write pictures as img2dataset's `--output_format files` does: each with its caption and a JSON file."""
    folder = out / "00000"
    folder.mkdir(parents=True)
    for number, (picture, caption) in enumerate(captioned(stamps)):
        key = f"{number:09d}"
        shutil.copyfile(picture, folder / f"{key}.png")
        (folder / f"{key}.txt").write_text(caption, encoding="utf-8")
        metadata = {"key": key, "caption": caption, "url": picture.relative_to(stamps).as_posix(), "status": "success"}
        (folder / f"{key}.json").write_text(json.dumps(metadata), encoding="utf-8")


def write_crawl(pages: Path, out: Path) -> None:
    """Write a WARC file of tutorials and images: one response each, compressed separately, as in Common Crawl."""
    files = [*pages.rglob("*tutorial*.html"), *(path for ending in IMAGES for path in pages.rglob(f"*.{ending}"))]
    with open(out, "wb") as crawl:
        for file in sorted(files):
            url = SITE + file.relative_to(pages).as_posix()
            crawl.write(gzip.compress(response(url, file.read_bytes()), mtime=0))


def response(url: str, body: bytes) -> bytes:
    """A WARC record of a web server's response."""
    record = WarcRecord()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {mimetypes.guess_type(url)[0]}\r\nContent-Length: {len(body)}\r\n\r\n"
    record.init_headers(WarcRecordType.response)
    record.headers["WARC-Target-URI"] = url
    record.headers["Content-Type"] = "application/http; msgtype=response"
    record.set_bytes_content(head.encode() + body)
    buffer = io.BytesIO()
    record.write(buffer)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Convert unpacked Debian packages to formats that kosmos-prepare reads."
    )
    parser.add_argument("packages", type=Path, help="folder with a folder for each unpacked package")
    parser.add_argument("out", type=Path, help="folder to write to")
    args = parser.parse_args()
    if args.out.exists():
        return
    share = {package.name: package / "usr" / "share" for package in args.packages.iterdir()}
    with atomic_path(args.out) as out:
        for folder in ("texts", "pictures", "crawl"):
            (out / folder).mkdir(parents=True)
        write_book(share["anarchism"] / "doc/anarchism/html", out / "texts/anarchism.jsonl.gz")
        write_sayings(share["fortunes"] / "games/fortunes", out / "texts/fortunes")
        shutil.copyfile(share["jargon-text"] / "doc/jargon-text/jargon.txt.gz", out / "texts/jargon.txt.gz")
        write_pictures(share["tuxpaint-stamps-default"] / "tuxpaint/stamps", out / "pictures")
        write_crawl(share["opencv-doc"] / "doc/opencv-doc/opencv4/html", out / "crawl/opencv.warc.gz")


if __name__ == "__main__":
    main()
