import numpy as np
import pytest

from heliostat.wording import agreeing, counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "row", "0 rows"), (1, "row", "1 row"), (1200, "row", "1,200 rows"), (np.int64(1_000_000), "row", "1,000,000 rows"),
        (1.0, "CPU", "1 CPU"), (0.5, "CPU", "0.5 CPUs"),
        (2, "class", "2 classes"), (2, "batch", "2 batches"), (2, "category", "2 categories"), (2, "day", "2 days"),
        (1, "more file", "1 more file"),
    ],
)  # fmt: skip
def test_a_noun_has_the_number_of_what_is_counted(number: float, noun: str, text: str) -> None:
    assert counted(number, noun) == text


@pytest.mark.parametrize(
    ("predicate", "of_one"),
    [
        ("are left", "is left"), ("have no label", "has no label"), ("do", "does"), ("fit", "fits"), ("differ", "differs"),
        ("match it", "matches it"),
    ],
)  # fmt: skip
def test_a_verb_has_the_number_of_what_is_counted(predicate: str, of_one: str) -> None:
    assert [agreeing(number, predicate) for number in (0, 1, 2)] == [predicate, of_one, predicate]
