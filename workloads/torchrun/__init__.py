"""``heliostat torchrun``: unchanged scripts for torchrun on Ray workers; scripts import `heliostat.torchrun`."""
