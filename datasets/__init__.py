"""Datasets for training: Arrow shards, the global order of samples, sources, the loader."""

# Ray may put the root of a clone on the search path; there this package must not be imported under a second name.
if __name__ != "heliostat.datasets":
    raise ModuleNotFoundError(f"no module {__name__!r}; Heliostat's is heliostat.datasets", name=__name__)

from heliostat.datasets.build import build
from heliostat.datasets.format import Dataset, Field, Index, Shard
from heliostat.datasets.order import Order

__all__ = ["Dataset", "Field", "Index", "Order", "Shard", "build"]
