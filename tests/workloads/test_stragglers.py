"""The worker that the others wait for is found, with whether it computes or waits for data, and nothing else is."""

import pytest
import torch

from heliostat.workloads.training.stragglers import WINDOW, Slow, Stopwatch, Stragglers, slow_text

STEPS = 100


def judged(own: list[float], waited: list[float], windows: int = 2, seconds: float = WINDOW) -> list[Slow | None]:
    """What is found in windows of `STEPS` steps; ``own`` and ``waited`` are seconds a step by worker."""
    stragglers = Stragglers(len(own))
    times = torch.tensor([own, waited], dtype=torch.float64) * STEPS
    return [found for _ in range(windows) for found in stragglers.add(times[0], times[1], STEPS, seconds)]


def test_a_worker_that_computes_for_longer_in_two_windows_is_slow() -> None:
    (found,) = judged([0.01, 0.03, 0.012], [0.001, 0.001, 0.001])
    assert found is not None
    assert (found.rank, found.data) == (1, False)
    assert found.seconds == pytest.approx(0.031)
    assert found.others == pytest.approx(0.012)
    assert found.share == pytest.approx(0.38)
    assert "worker 1 on gpu-2 is slow: it takes 31.0 ms a step" in slow_text(found, "gpu-2")
    assert "2.6 times as long as the others (it computes for longer), who wait for it 38% of the time" in slow_text(
        found, "gpu-2"
    )


def test_a_worker_that_waits_for_data_is_slow_because_of_that() -> None:
    (found,) = judged([0.01, 0.01], [0.001, 0.03])
    assert found is not None
    assert (found.rank, found.data) == (1, True)


@pytest.mark.parametrize(
    ("own", "windows"),
    [([0.01, 0.014], 2), ([0.001, 0.003], 2), ([0.0, 0.0], 2), ([0.03], 2)],
    ids=["hardly slower", "it costs nothing beside the rest of a step", "not known", "alone"],
)
def test_others_are_not(own: list[float], windows: int) -> None:
    assert judged(own, [0.0] * len(own), windows) == [None] * windows


def test_one_window_is_not_enough() -> None:
    assert judged([0.01, 0.03], [0.0, 0.0], windows=1) == []


def test_windows_that_are_too_short_are_judged_together() -> None:
    assert judged([0.01, 0.01], [0.0, 0.0], windows=4, seconds=WINDOW / 4) == [None]


def test_a_stopwatch_adds_up_and_begins_again() -> None:
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        watch.start()
        watch.stop()
    assert watch.read() > 0
    assert watch.read() == 0
