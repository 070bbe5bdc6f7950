"""Checkpoints for a script under torchrun or ``heliostat torchrun``, in three lines::

    from heliostat.torchrun import resume, save
    for epoch in range(resume(model=model, optimizer=optimizer), epochs):
        ...
        save(epoch + 1, model=model, optimizer=optimizer)

They also work under plain ``python`` and ``torchrun``.
"""

from heliostat.workloads.torchrun.script import resume, save

__all__ = ["resume", "save"]
