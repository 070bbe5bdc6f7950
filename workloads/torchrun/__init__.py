"""Scripts for torchrun on Ray workers, unchanged: ``heliostat torchrun``; scripts import `heliostat.torchrun`."""
