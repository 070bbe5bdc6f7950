"""The jobs of a record as a trace: what they held of the worker nodes, and what is not known."""

from dataclasses import replace

from heliostat.cluster.history import History, history
from heliostat.cluster.in_pod.record import Gap, Interval, Record, RecordedJob
from heliostat.cluster.profile import Profile

PROFILE = Profile.model_validate(
    {
        "name": "two",
        "platform": "local",
        "storage": {"uri": "runs"},
        "groups": [
            {"name": "gpu", "gpu": 4, "max": 2, "price_per_hour": 10},
            {"name": "cpu", "cpu": 8, "max": 2, "price_per_hour": 1},
        ],
    }
)


def busy(begin: float, end: float, node: str = "a", group: str = "gpu", **work: float) -> Interval:
    return Interval(node, node, group, "spot", 10.0, 4 if group == "gpu" else 0, "busy", begin, end, work)


def job(id: str, begin: float, status: str = "SUCCEEDED", end: float | None = None) -> RecordedJob:
    return RecordedJob(id, "", "", status, {}, begin, end)


def record(*intervals: Interval, jobs: tuple[RecordedJob, ...]) -> Record:
    return Record(0, 1000, intervals, [], {each.id: each for each in jobs})


def rows(found: History) -> list[tuple[str, float, float, int, float]]:
    """The id, submission, seconds, GPUs and wait of each job."""
    jobs = found.trace.jobs
    columns = (jobs.ids.to_pylist(), jobs.submitted.tolist(), jobs.seconds.tolist(), jobs.gpus.tolist(), found.waits.tolist())
    return list(zip(*columns, strict=True))


def test_a_job_has_the_gpus_that_it_held_and_waited_until_it_held_any() -> None:
    found = record(
        busy(150, 450, "a", late=0.25), busy(40, 140, "a", early=1.0), busy(40, 140, "b", early=0.5, late=0.5),
        busy(140, 150, "a", early=1.0),
        jobs=(job("late", 20), job("early", 10, "FAILED")),
    )  # fmt: skip
    # late held 2 GPUs for 100 s and one for 300 s: 500 GPU-seconds; early 6 for 100 s and 4 for 10 s.
    assert rows(history(found, PROFILE)) == [("early", 10, 640 / 6, 6, 30), ("late", 20, 500, 1, 20)]
    assert history(found, PROFILE).times.tolist() == [140, 430]
    (note,) = history(found, PROFILE).trace.notes
    assert note == "1 job held a changing number of GPUs, of which the mean counts"


def test_a_job_that_was_interrupted_is_as_long_as_it_held_nodes() -> None:
    found = record(busy(10, 100, one=1.0), busy(300, 400, "b", one=1.0), jobs=(job("one", 0),))
    assert rows(history(found, PROFILE)) == [("one", 0, 190, 4, 10)]


def test_a_job_without_gpus_has_its_cpus() -> None:
    found = history(record(busy(10, 110, "c", "cpu", one=0.5), jobs=(job("one", 0),)), PROFILE)
    assert rows(found) == [("one", 0, 100, 0, 10)]
    assert found.trace.jobs.cpus is not None
    assert found.trace.jobs.cpus.tolist() == [4]


def test_what_is_not_known_is_counted() -> None:
    found = record(
        busy(0, 3600, "a", group="gpu", **{"": 0.5, "half": 0.1}), busy(0, 10, "c", "gone", old=1.0),
        jobs=(job("half", 0), job("old", 0), job("never", 0), job("runs", 0, "RUNNING"), job("lost", 5, "LOST")),
    )  # fmt: skip
    trace = history(replace(found, gaps=[Gap(100, 200)]), PROFILE).trace
    assert trace.jobs.ids.to_pylist() == ["half"]
    assert trace.left_out == {
        "jobs on groups that the profile does not have": 1, "jobs that held no worker node": 2, "unfinished jobs": 1,
    }  # fmt: skip
    assert trace.notes == (
        "1 job held a part of a GPU, counted as one",
        "1 job ran while nothing was recorded; that time is in no duration",
        "2.0 GPU-hours of work whose job is not known are in no figure",
    )


def test_only_jobs_that_were_submitted_in_the_period_count_each_as_a_whole() -> None:
    found = record(busy(10, 500, "a", one=1.0), busy(10, 100, "b", two=1.0), jobs=(job("one", 5), job("two", 2)))
    assert rows(history(found, PROFILE, since=3, until=200)) == [("one", 5, 490, 4, 5)]
