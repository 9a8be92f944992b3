"""The index of a remote tar: the one beside it or, if there is none, one made by reading the tar from start to end."""

import hashlib
import io
import os
import tempfile

from kosmos_plugin.data.index_file import DamagedIndex, IndexFile, index_bytes
from kosmos_plugin.data.remote_files import REQUEST_BYTES, RemoteFiles, Unavailable
from kosmos_plugin.data.shard_index import INDEX_SUFFIX, OLD_INDEX_SUFFIX, all_records
from kosmos_plugin.errors import UserError


class SequentialFile(io.RawIOBase):
    """A remote file that is read from start to end, in requests of REQUEST_BYTES; what a seek passes over is not read.

    Args:
        files: Reads remote files.
        url: Its address.
        size: Its size in bytes.
    """

    def __init__(self, files: RemoteFiles, url: str, size: int):
        self.files = files
        self.url = url
        self.size = size
        self._position = 0
        self._begin, self._data = 0, b""  # what was read last, and where it begins

    def read(self, size: int = -1) -> bytes:
        end = self.size if size < 0 else min(self._position + size, self.size)
        parts = []
        while self._position < end:
            offset = self._position - self._begin
            if not 0 <= offset < len(self._data):
                last = min(self._position + REQUEST_BYTES, self.size)
                self._begin, self._data = self._position, self.files.read(self.url, self._position, last)
                offset = 0
            parts.append(self._data[offset : offset + end - self._position])
            self._position += len(parts[-1])
        return b"".join(parts)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self.size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position


def remote_index(tar: str, files: RemoteFiles) -> tuple[bytes, bytes]:
    """The index of a remote tar, and a digest of the index and of what the storage calls this version of the tar.

    Raises:
        UserError: The tar is missing or broken, or its index is damaged, or lists selected records of another tar.
    """
    info = files.info(tar)
    if info is None:
        raise Unavailable(f"The shard {tar} does not exist.")
    index = _index_beside(tar, info.size, files)
    if index is None:
        if files.info(f"{tar}{OLD_INDEX_SUFFIX}", optional=True) is not None:
            raise UserError(
                f"The shard {tar} is indexed in another form, that of version 0.1: index it again before it "
                f"is uploaded, or remove {tar}{OLD_INDEX_SUFFIX} to use all of its records."
            )
        records = all_records(tar, SequentialFile(files, tar, info.size))
        header = {"tar_size": info.size, "selection": ""}
        index = index_bytes(((record.key, record.members) for record in records), header)
    return index, hashlib.blake2b(index + info.version.encode(), digest_size=16).digest()


def _index_beside(tar: str, tar_size: int, files: RemoteFiles) -> bytes | None:
    """The index that is beside a tar; None if there is none, or one of all records of a tar of another size."""
    url = f"{tar}{INDEX_SUFFIX}"
    info = files.info(url, optional=True)
    if info is None:
        return None
    index = files.read(url, 0, info.size)
    with tempfile.NamedTemporaryFile() as file:
        file.write(index)
        file.flush()
        try:
            opened = IndexFile(file.name)
            opened.check()
        except DamagedIndex as error:
            raise UserError(
                f"The index {url} cannot be used ({error}): index the shard again, or remove it, and all "
                "records of the tar are used."
            ) from None
    if opened.header["tar_size"] == tar_size:
        return index
    if opened.header["selection"]:
        raise UserError(
            f"The shard {tar} has changed since kosmos-prepare captions filtered it: prepare it again, or "
            f"remove {url} to use all of its records."
        )
    return None
