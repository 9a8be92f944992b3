"""Choices by hashes instead of random numbers: the same for any order of documents and any number of workers."""

import hashlib


def uniform_hash(text: str, purpose: str) -> int:
    """64-bit hash of `text`, uniform over 0 … 2⁶⁴−1 and independent for each `purpose`."""
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8, person=purpose.encode())
    return int.from_bytes(digest.digest(), "big")


def is_in_share(text: str, share: float, purpose: str) -> bool:
    """Whether `text` is in the share (0 … 1) of all texts that is chosen for `purpose`."""
    return uniform_hash(text, purpose) < share * 2**64
