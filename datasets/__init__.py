"""What training reads: Arrow shards, the global order of samples, sources, the loader."""

# The root of a clone may be on a search path, as Ray puts it there: nothing of ours is loaded under a second name.
if __name__ != "heliostat.datasets":
    raise ModuleNotFoundError(f"no module {__name__!r}; Heliostat's is heliostat.datasets", name=__name__)

from heliostat.datasets.build import build
from heliostat.datasets.format import Dataset, Field, Index, Shard
from heliostat.datasets.order import Order

__all__ = ["Dataset", "Field", "Index", "Order", "Shard", "build"]
