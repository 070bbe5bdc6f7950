"""Builds the dataset of a large csv file, beside pandas and scikit-learn: rows a second, and the memory that each takes.

    python -m tests.benchmarks.tables_build [SIZE_IN_GB] [PYTHON_WITH_SCIKIT_LEARN]

Each way runs in a process of its own. scikit-learn is no dependency: the second Python must have it, pandas and numpy.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

ROWS = 100_000
"""Rows that are written at once."""
PANDAS = """
import sys, time, json, resource
import numpy as np, pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler
started = time.monotonic()
frame = pd.read_csv(sys.argv[1])
when = pd.to_datetime(frame.pop("joined"))
for part in ("year", "month", "day", "weekday"):
    frame[part] = getattr(when.dt, part)
labels = frame.pop("y").to_numpy()
texts = ["city", "colour"]
numbers = [name for name in frame if name not in texts]
encoder = make_column_transformer(
    (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), numbers),
    (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-2, encoded_missing_value=-1), texts))
features = encoder.fit_transform(frame).astype(np.float32)
np.save(sys.argv[2], features)
seconds = time.monotonic() - started
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]))
"""


def write_table(path: Path, size: int) -> int:
    """Writes a csv file of about ``size`` bytes: numbers with gaps, texts, dates; returns its rows."""
    source, rows = np.random.default_rng(0), 0
    days = np.datetime64("2015-01-01") + np.arange(3650)
    with path.open("wb") as file:
        while file.tell() < size:
            columns: dict[str, Any] = {f"n{at}": np.round(source.normal(100, 20, ROWS), 4) for at in range(6)}
            columns |= {"age": source.integers(18, 90, ROWS), "count": source.integers(0, 100_000, ROWS)}
            table = pa.table(columns)
            gaps = pa.array(source.random(ROWS) < 0.1)
            table = table.set_column(0, "n0", pa.compute.if_else(gaps, None, table["n0"]))
            texts = {
                "city": np.array([f"city {at}" for at in range(300)])[source.integers(0, 300, ROWS)],
                "colour": np.array(["red", "green", "blue"])[source.integers(0, 3, ROWS)],
                "joined": np.datetime_as_string(days[source.integers(0, len(days), ROWS)]),
                "y": np.array(["no", "yes"])[source.integers(0, 2, ROWS)],
            }
            for name, values in texts.items():
                table = table.append_column(name, pa.array(values))
            options = pyarrow.csv.WriteOptions(include_header=rows == 0)
            pyarrow.csv.write_csv(table, file, options)
            rows += ROWS
    return rows


def build_here(path: str, out: str, cores: int) -> None:
    """Builds in this process on some cores, and prints the seconds and the gigabytes of memory."""
    from heliostat.datasets import build
    from heliostat.datasets.sources import open_source

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    pa.set_cpu_count(cores)
    started = time.monotonic()
    index = build(open_source("table", {"path": path, "target": "y"}), out).index
    seconds = time.monotonic() - started
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, index.fingerprint]))


def measured(*command: str) -> list[float]:
    """What a process prints last."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(size: float, python: str | None) -> None:
    """Prints a row for each way."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.csv")
        rows = write_table(path, int(size * 1e9))
        print(f"{path.stat().st_size / 1e9:.2f} GB of csv, {rows:,} rows, 12 columns\n")
        print(f"{'':<32}{'seconds':>9}{'rows/s':>12}{'peak GB':>9}")
        for cores in (1, 2):
            found = measured(sys.executable, "-m", __spec__.name, "build", str(path), f"{folder}/{cores}", str(cores))
            show(f"heliostat, {cores} core{'s' * (cores > 1)}", found, rows)
        if python:
            show("pandas, scikit-learn", measured(python, "-c", PANDAS, str(path), f"{folder}/out.npy"), rows)


def show(name: str, found: list[float], rows: int) -> None:
    """Prints a row."""
    print(f"{name:<32}{found[0]:>9.1f}{rows / found[0]:>12,.0f}{found[1]:>9.2f}", *found[2:])


if __name__ == "__main__":
    if sys.argv[1:2] == ["build"]:
        build_here(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.5, sys.argv[2] if len(sys.argv) > 2 else None)
