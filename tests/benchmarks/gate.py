"""How often the gate promotes one of two equally good models: 1,000 simulations of each metric and number of rows.

With 500 resamples instead of 2,000, which changes single p-values a little, and not how often they are below 5 %; two minutes.

python -m tests.benchmarks.gate
"""

import sys

from heliostat.workloads.registry.gate import statistics
from tests.workloads.finished.test_gate import false_promotions

TIMES = 1000
CASES = (("accuracy", 100), ("accuracy", 300), ("accuracy", 1000), ("log_loss", 100), ("log_loss", 300), ("auc", 300))


def main() -> int:
    statistics.RESAMPLES = 500
    shares = []
    for metric, rows in CASES:
        shares.append(false_promotions(metric, rows, TIMES, seed=0) / TIMES)
        print(f"{metric:<10} {rows:>5} rows: {shares[-1]:.1%} of {TIMES:,} equal models promoted", flush=True)
    return int(max(shares) > 0.05)


if __name__ == "__main__":
    sys.exit(main())
