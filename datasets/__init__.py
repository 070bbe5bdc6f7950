"""What training reads: Arrow shards, the global order of samples, sources, and `heliostat.datasets.loader`.

This package shares its name with Hugging Face's; see the README for how to bring such data in.
"""

from heliostat.datasets.build import build
from heliostat.datasets.format import Dataset, Field, Index, Shard
from heliostat.datasets.order import Order

__all__ = ["Dataset", "Field", "Index", "Order", "Shard", "build"]
