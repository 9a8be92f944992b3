"""Choosing by hashes instead of by chance: whatever the order and the number of workers, the same are chosen."""

import hashlib


def place(text: str, purpose: str) -> int:
    """Where `text` stands among all texts, 0 … 2^64 − 1, evenly; for each purpose somewhere else."""
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8, person=purpose.encode())
    return int.from_bytes(digest.digest(), "big")


def is_in_share(text: str, share: float, purpose: str) -> bool:
    """Whether `text` is one of the `share`, 0 … 1, of all texts that is chosen for `purpose`."""
    return place(text, purpose) < share * 2**64


def split_of(text: str, valid_share: float) -> str:
    """Whether a document is held out ("valid") or trained on ("train"): by its text, so that copies go together."""
    return "valid" if is_in_share(text, valid_share, "held out") else "train"
