"""Scripts for torchrun, on Ray workers, unchanged: ``heliostat torchrun script.py``.

Three lines in a script bring checkpoints, which also work under plain ``python`` and ``torchrun``::

    from heliostat.workloads.torchrun import resume, save
    for epoch in range(resume(model=model, optimizer=optimizer), epochs):
        ...
        save(epoch + 1, model=model, optimizer=optimizer)
"""

from heliostat.workloads.torchrun.script import resume, save

__all__ = ["resume", "save"]
