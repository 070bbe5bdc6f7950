from heliostat.cluster.in_pod.record import Interval, Record
from heliostat.cluster.measured import describe_times, measured, with_times
from heliostat.cluster.planner.fleet import Fleet, NodeGroup

STATED = Fleet((NodeGroup("gpu", 1, start_seconds=300, idle_seconds=15), NodeGroup("spot", 1, start_seconds=300)))


def life(node: str, group: str, *states: tuple[str, float, float]) -> list[Interval]:
    return [Interval(node, node, group, "spot", 1.0, 1, state, begin, end) for state, begin, end in states]


def test_starts_and_ends_are_those_of_the_record_where_it_has_them() -> None:
    intervals = [
        *life("a", "gpu", ("starting", 0, 40), ("busy", 40, 100), ("idle", 100, 105), ("busy", 105, 200), ("idle", 200, 220)),
        *life("b", "gpu", ("starting", 0, 60), ("idle", 60, 90)),
        *life("never ready", "gpu", ("starting", 0, 900)),
        *life("not seen", "gpu", ("starting", 0, 800), ("unknown", 800, 990)),
        *life("interrupted", "gpu", ("starting", 0, 50), ("idle", 50, 53)),
        *life("kept for a job that waits", "gpu", ("starting", 0, 50), ("idle", 50, 900)),
        *life("still there", "gpu", ("starting", 500, 550), ("idle", 550, 1000)),
    ]
    record = Record(0, 1000, intervals, [], {})
    times = [(group.start_seconds, group.idle_seconds, group.end_seconds) for group in measured(STATED, record).groups]
    assert times == [(50, 15, 10), (300, 120, 0)]
    shorter = with_times(Fleet((NodeGroup("gpu", 1, idle_seconds=5), NodeGroup("spot", 1))), measured(STATED, record))
    assert shorter.groups[0] == NodeGroup("gpu", 1, start_seconds=50, idle_seconds=5, end_seconds=10)
    (text,) = describe_times(STATED, record)
    assert text == "group gpu, by the record: 50 s to start (start_seconds: 300), gone 10 s after idle_seconds"
