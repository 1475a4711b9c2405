"""Seeds that depend on what is computed, never on when: same recipe, same bits, on any schedule."""

from __future__ import annotations

import hashlib


def stable_seed(*parts: object) -> int:
    """A 63-bit seed from the texts of `parts`, for example (recipe seed, task, tensor name)."""
    digest = hashlib.blake2b("\x1f".join(str(p) for p in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def digest_of(*parts: object) -> str:
    """A short hexadecimal digest of the texts of `parts`, used as a cache key."""
    return hashlib.blake2b("\x1f".join(str(p) for p in parts).encode(), digest_size=12).hexdigest()
