"""Free texts as numbers: the words of each, hashed into a fixed number of places with a sign.

Weinberger, Dasgupta, Langford, Smola and Attenberg, "Feature Hashing for Large Scale Multitask Learning", ICML 2009.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

PLACES = 64


def hashes(texts: pa.Array) -> npt.NDArray[np.uint64]:
    """XXH3 (64 bits) of each text, of different ones only once."""
    coded = texts.dictionary_encode()
    different = pc.cast(coded.dictionary, pa.binary()).to_pylist()
    found = np.fromiter(map(xxhash.xxh3_64_intdigest, different), np.uint64, len(different))
    return np.asarray(found[np.asarray(coded.indices)])


def hashed_words(texts: pa.Array, places: int = PLACES) -> npt.NDArray[np.float32]:
    """The words of each text: sums of signs by place, divided by the root of the number of words; (texts, places)."""
    only = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(texts), r"[^\p{L}\p{N}]+", " "))
    words = pc.split_pattern(only, " ")
    rows, found = np.asarray(pc.list_parent_indices(words)), hashes(pc.list_flatten(words))
    signs = np.where(found >> np.uint64(63), -1.0, 1.0)
    cells = rows * places + (found % np.uint64(places)).astype(np.int64)
    sums = np.bincount(cells, signs, minlength=len(texts) * places).reshape(len(texts), places)
    counts = np.bincount(rows, minlength=len(texts))
    return np.asarray(sums / np.sqrt(np.maximum(counts, 1))[:, None], np.float32)
