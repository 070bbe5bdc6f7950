"""Default prices of a pod per hour: typical list prices, in US dollars."""

from heliostat.config import nearest

PER_CPU, PER_GIB = 0.033, 0.0045
SPOT = 0.35
"""A spot price as a share of the on-demand one: clouds advertise discounts of 60 to 90 percent that change daily."""
PER_GPU = {
    "T4": 0.35,
    "L4": 0.60,
    "A10G": 0.80,
    "V100": 2.48,
    "A100-40GB": 2.93,
    "A100-80GB": 3.93,
    "L40S": 1.60,
    "H100": 6.90,
    "H200": 8.00,
    "B200": 11.00,
}
"""The GPU alone, on demand. Set ``price_per_hour`` in the profile for an exact price."""


def price_per_hour(cpu: float, gib: float, gpus: int, gpu_type: str | None, market: str) -> float:
    """The price of a pod with so many CPUs, GiB of memory and GPUs.

    Raises:
        ValueError: the GPU type is not in the table.
    """
    if gpu_type and gpu_type not in PER_GPU:
        sizes = [known for known in PER_GPU if known.startswith(gpu_type)]
        hint = f"use {' or '.join(sizes)}." if len(sizes) > 1 else nearest(gpu_type, PER_GPU)
        raise ValueError(f"gpu_type is {gpu_type}, which the price table does not have; {hint} Or set price_per_hour")
    price = cpu * PER_CPU + gib * PER_GIB + gpus * PER_GPU.get(gpu_type or "", 0.0)
    return round(price * (SPOT if market == "spot" else 1.0), 4)
