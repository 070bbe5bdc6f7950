"""Datasets for training: Arrow shards, the global order of samples, sources, the loader."""

if __name__ != "heliostat.datasets":  # the clone's root is on the search path, as Ray puts it there
    from heliostat.modules import step_aside

    step_aside(__name__, __file__, "import heliostat.datasets")

from heliostat.datasets.build import build
from heliostat.datasets.format import Dataset
from heliostat.datasets.index import Field, Index, Shard
from heliostat.datasets.order import Order
from heliostat.datasets.order_1 import Order1

__all__ = ["Dataset", "Field", "Index", "Order", "Order1", "Shard", "build"]
