"""The cost of a cluster, from the lifetimes of its nodes."""

from collections.abc import Sequence

import pytest

from heliostat.cluster.cost import DEAD_NODES_KEPT, CostReport, NodeLifetime, cost_report
from heliostat.cluster.profile import Profile
from heliostat.errors import UserError
from tests.conftest import Command

HOUR = 3600.0
PROFILE = Profile.model_validate(
    {
        "name": "priced",
        "platform": "local",
        "storage": {"uri": "runs"},
        "head": {"price_per_hour": 0.5},
        "groups": [
            {"name": "gpu", "gpu": 4, "max": 2, "price_per_hour": 10},
            {"name": "spot", "gpu": 1, "max": 3, "price_per_hour": 1},
        ],
    }
)
HEAD = NodeLifetime("head", "head", begin=0.0)
NODES = (
    HEAD,
    NodeLifetime("a", "gpu", begin=1 * HOUR, end=2 * HOUR),
    NodeLifetime("b", "gpu", begin=1.5 * HOUR),
    NodeLifetime("c", "spot", begin=0.5 * HOUR, end=1 * HOUR),
)


def summary(found: CostReport) -> dict[str, tuple[int, float, float, float]]:
    """For each group its nodes, GPU-hours, cost, and cost if always on."""
    return {g.name: (g.nodes, g.gpu_seconds / HOUR, g.cost, g.static) for g in found.groups}


def test_each_group_costs_the_time_of_its_nodes() -> None:
    found = cost_report(PROFILE, NODES, now=4 * HOUR)
    assert summary(found) == {"head": (1, 0, 2, 2), "gpu": (2, 4 * 3.5, 35, 80), "spot": (1, 0.5, 0.5, 12)}
    assert (found.cost, found.static) == (37.5, 94)


def test_only_the_time_that_is_asked_for_counts() -> None:
    found = cost_report(PROFILE, NODES, now=4 * HOUR, since=1.25 * HOUR, until=1.75 * HOUR)
    assert summary(found) == {"head": (1, 0, 0.25, 0.25), "gpu": (2, 4 * 0.75, 7.5, 10), "spot": (0, 0, 0, 1.5)}
    assert [life.node for life in found.nodes] == ["head", "a", "b"]


@pytest.mark.parametrize(
    ("nodes", "since", "until", "words"),
    [
        (NODES, -HOUR, None, r"starts 14400 s ago, after the start of the period \(18000 to 0 s ago\)\n.*--since 14400s"),
        (NODES, -HOUR, 3 * HOUR, r"starts 14400 s ago, .* \(18000 to 3600 s ago\)\n.*--since 14400s"),
        (NODES, None, -HOUR, r"starts 14400 s ago, .* \(14400 to 18000 s ago\)"),
        ((HEAD, NodeLifetime("x", "old", 0.0)), None, None, "nodes of group old, which has no price in its profile"),
        (
            (HEAD, *(NodeLifetime(str(n), "gpu", n, n + 5.0) for n in range(DEAD_NODES_KEPT))),
            1.0,
            None,
            "record of priced's nodes starts 14395 s ago",
        ),
        ((), None, None, "has no record of its nodes yet"),
    ],
)
def test_what_cannot_be_known_is_refused(
    nodes: Sequence[NodeLifetime], since: float | None, until: float | None, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        cost_report(PROFILE, nodes, 4 * HOUR, since, until)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--since", "yesterday"), "--since is yesterday, which is not a time\n  fix: give an age such as 90m"),
        (("--since", "1h", "--until", "2h"), "--since and --until are not a period in the past"),
        (("--until", "2999-01-01"), "--since and --until are not a period in the past"),
        ((), "mine is absent, and the record of its nodes was deleted with its head\n  fix: heliostat up mine"),
    ],
)
def test_no_time_and_no_cluster_are_named(command: Command, flags: tuple[str, ...], words: str) -> None:
    group = "{name: gpu, gpu: 1, gpu_type: T4, max: 1}"
    (command.cwd / "mine.yaml").write_text(f"name: mine\nplatform: local\ngroups: [{group}]\nstorage: {{uri: runs}}\n")
    done = command("cost", "mine.yaml", *flags)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err
