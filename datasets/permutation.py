"""A pseudo-random permutation of any size that is computed element by element, so that it is never held in memory."""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

ROUNDS = 10
"""An even number. Four are enough for millions of elements, but neighbours among fewer than a hundred need ten (measured)."""

STEP = 0x9E3779B97F4A7C15
"""Between the keys of two rounds: odd, and large, as the rounds would otherwise be shifted copies of each other."""


def mixed(values: Hashes) -> Hashes:
    """Hash 64-bit values one to one: the finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def permuted(indices: Numbers, size: Numbers, key: Hashes) -> Numbers:
    """Where a pseudo-random permutation of ``range(size)`` takes each index; each element has a size and a key of its own.

    A Feistel network over a * b values, with a the square root of the size, rounded up, and b the least that is enough. A
    result beyond the size goes through it again until it is below (Black and Rogaway 2002, "Ciphers with Arbitrary Finite
    Domains"), which is rare, as a * b exceeds the size by less than a.

    Args:
        indices: from 0 to below the size; all three arrays have the same shape, (n,).
        size: of the permutation, at most 2**53.
        key: which permutation; hashes, because close keys give related permutations.
    """
    a = np.ceil(np.sqrt(size)).astype(np.int64)
    b = -(-size // a)
    found = _network(indices, a, b, key)
    while (beyond := np.flatnonzero(found >= size)).size:
        found[beyond] = _network(found[beyond], a[beyond], b[beyond], key[beyond])
    return found


def _network(values: Numbers, a: Numbers, b: Numbers, key: Hashes) -> Numbers:
    left, right = np.divmod(values.view(np.uint64), b.view(np.uint64))
    limits = b.view(np.uint64), a.view(np.uint64)
    for number in range(ROUNDS):
        left, right = right, left  # in turn, one half is shifted by a hash of the other
        limit = limits[(number + 1) % 2]
        shift = mixed(left + (key + np.uint64(number * STEP % 2**64)))
        shift >>= np.uint64(32)
        shift *= limit
        shift >>= np.uint64(32)
        right = right + shift
        np.minimum(right, right - limit, out=right)  # below zero it wraps around, and is the larger one
    return (left * limits[0] + right).view(np.int64)
