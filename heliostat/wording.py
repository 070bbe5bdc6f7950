"""Counts in texts for people: a noun and its verb in the number that they need."""

from numbers import Integral


def counted(number: float, noun: str) -> str:
    """A number and a noun, which is given in the singular: ``1 row``, ``1,200 rows``, ``0.5 CPUs``."""
    shown = f"{number:,}" if isinstance(number, Integral) else f"{number:g}"
    return f"{shown} {noun if number == 1 else _ending(noun)}"


def agreeing(number: float, predicate: str) -> str:
    """What so many things do, which is given for several: of ``have no label``, for a single one ``has no label``."""
    verb, blank, rest = predicate.partition(" ")
    return f"{IRREGULAR.get(verb) or _ending(verb)}{blank}{rest}" if number == 1 else predicate


IRREGULAR = {"are": "is", "have": "has", "do": "does"}


def _ending(word: str) -> str:
    """A regular noun in the plural, or a regular verb in the third person; both end alike."""
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x", "ch", "sh")) else f"{word}s"
