"""The data: points on two spirals. Replace the function by one that reads your own, or name a source in train.yaml."""

import math
import random
from collections.abc import Iterator
from typing import Any


def spirals(count: int = 1200, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table; the arguments are the keys of `dataset.options` in train.yaml."""
    source = random.Random(seed)
    for _ in range(count):
        radius, arm = source.uniform(0.5, 6), source.randrange(2)
        angle = radius + math.pi * arm
        yield {"x": radius * math.cos(angle), "y": radius * math.sin(angle), "arm": ("first", "second")[arm]}
