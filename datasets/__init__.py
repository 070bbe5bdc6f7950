"""What training reads: Arrow shards, the global order of samples, sources, and `datasets.loader`.

This package shares its name with Hugging Face's; see the README for how to bring such data in.
"""

from datasets.build import build
from datasets.format import Dataset, Field, Index, Shard
from datasets.order import Order

__all__ = ["Dataset", "Field", "Index", "Order", "Shard", "build"]
