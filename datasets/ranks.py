"""Order statistics of numbers in a file, in memory that does not depend on how many they are."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint64]
Whole = npt.NDArray[np.int64]
SIGN = np.uint64(1 << 63)
DIGITS = 256


def sortable(values: npt.NDArray[Any]) -> Bits:
    """Numbers, or moments, as whole numbers in the same order, without a loss; -0.0 equals 0.0."""
    if values.dtype.kind in "ub":
        return values.astype(np.uint64)
    if values.dtype.kind in "iM":
        return values.astype(np.int64).view(np.uint64) ^ SIGN
    bits = (values.astype(np.float64) + 0.0).view(np.uint64)
    return np.where(bits & SIGN, ~bits, bits | SIGN)


def restored(bits: int, dtype: npt.DTypeLike) -> Any:
    """The inverse of `sortable` for one number of a type."""
    kind, one = np.dtype(dtype).kind, np.array([bits], np.uint64)
    if kind in "ub":
        return one.astype(dtype)[0]
    if kind in "iM":
        return (one ^ SIGN).view(np.int64).astype(dtype)[0]
    return np.where(one & SIGN, one ^ SIGN, ~one).view(np.float64).astype(dtype)[0]


def select(chunks: Callable[[], Iterable[tuple[Whole, Bits]]], ranks: Whole) -> tuple[Bits, Whole]:
    """The keys that have some ranks within their groups, by radix selection: eight passes over the keys, eight bits each.

    Args:
        chunks: the groups (n,), numbers from 0, and the keys (n,); called once for each pass.
        ranks: (groups, k), from 0. One that is not below the size of its group selects the largest key.

    Returns:
        (groups, k) keys, and how many of the keys equal to each one have a lower rank. Groups without a key have any.
    """
    groups, many = ranks.shape
    prefixes, left = np.zeros(ranks.shape, np.uint64), ranks.copy()
    for shift in range(64 - 8, -1, -8):
        counts = np.zeros((many, groups * DIGITS), np.int64)
        for numbers, keys in chunks():
            high = keys >> np.uint64(shift)
            places = numbers * DIGITS + (high & np.uint64(DIGITS - 1)).astype(np.int64)
            high = high >> np.uint64(8)
            for number in range(many):
                same = high == prefixes[numbers, number]
                counts[number] += np.bincount(places[same], minlength=groups * DIGITS)
        upto = counts.reshape(many, groups, DIGITS).transpose(1, 0, 2).cumsum(axis=2)
        digits = np.minimum((upto <= left[..., None]).sum(axis=2), _last(upto))
        before = np.take_along_axis(upto, np.maximum(digits - 1, 0)[..., None], axis=2)[..., 0]
        left -= np.where(digits > 0, before, 0)
        prefixes = (prefixes << np.uint64(8)) | digits.astype(np.uint64)
    return prefixes, left


def _last(upto: Whole) -> Whole:
    """The last digit that a key has."""
    found: Whole = (upto < upto[..., -1:]).sum(axis=2)
    return found
