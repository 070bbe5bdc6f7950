"""What the jobs of a cluster wait for in Ray, and what limits the groups that could hold it."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from heliostat.cluster.diagnosis.group_nodes import Fleet, GroupNodes
from heliostat.cluster.diagnosis.problem import Problem, at
from heliostat.cluster.documents.pods import ray_labels
from heliostat.cluster.jobs.demand import Demand, RayState, Request
from heliostat.cluster.profile import Profile, WorkerGroup, ray_resources
from heliostat.errors import some
from heliostat.wording import counted

DRIVER = "driver"
"""The resource that only heads have, for what drives a trial of a sweep."""
UNLIMITED = 1_000_000
"""How many requests without a resource of the profile a node holds."""
PARTS = 10_000
"""The parts of a resource that Ray counts."""
SHOWN = 3
"""Holders of a group's nodes that are named."""
BEHIND_SECONDS = 30.0
"""Seconds after which an autoscaler that has not asked for a node is behind: it decides every few seconds."""


def of_demand(ray: RayState, fleet: Fleet, profile: Profile, now: float) -> Iterator[Problem]:
    """Why placement groups, actors and tasks have no node, a problem for each job and each shape of what it waits for.

    Args:
        ray: what Ray knows.
        fleet: the nodes.
        profile: the desired cluster.
        now: the time, in seconds since the epoch.
    """
    alike: dict[tuple[str, str], list[Demand]] = {}
    for demand in ray.demands:
        shape = repr((demand.kind, demand.strategy, [(r.counted, dict(r.labels)) for r in demand.requests]))
        alike.setdefault((ray.job_of(demand.driver), shape), []).append(demand)
    found = [each for (job, _), demands in alike.items() for each in _of_one(job, demands, ray, fleet, profile, now)]
    yield from sorted(found, key=lambda problem: problem.then != _NEVER)  # what can never be had decides first


def _of_one(job: str, demands: list[Demand], ray: RayState, fleet: Fleet, profile: Profile, now: float) -> Iterator[Problem]:
    demand = demands[0]
    since = min((each.since for each in demands if each.since), default=None)
    waits = f"job {job} waits for {_asked(demand, len(demands))}"
    if all(DRIVER in request.counted for request in demand.requests):
        what = f"the head has {profile.head.drivers} of them (head.drivers), and they are in use, or it is not ready"
        then = "it starts as soon as one is free"
        yield Problem(f"drivers {job}", f"{waits}: {what}", "raise head.drivers", math.inf, since=since, job=job, then=then)
        return
    impossible = _impossible(demand, fleet, profile)
    if impossible:
        what, fix = impossible
        yield Problem(f"demand {job} {what}", f"{waits}: {what}", fix, math.inf, since=since, job=job, then=_NEVER)
        return
    able = [g for g in profile.groups if any(r.fits(ray_resources(g), ray_labels(g)) for r in demand.requests)]
    for group in able:
        what, fix, then = _limit(group, fleet.get(group.name, GroupNodes(group.max)), ray, profile, since, now)
        yield Problem(
            f"demand {job} {group.name}", f"{waits}: {what}", fix, math.inf, since=since, group=group.name, job=job, then=then
        )


_NEVER = "it waits until it is stopped, or the cluster is changed"


def _asked(demand: Demand, count: int) -> str:
    """What is asked for, in words."""
    shapes = Counter((_shown(r.counted), _labels(r)) for r in demand.requests)
    parts = [f"{many} x ({shape}){labels}" if many > 1 else f"{shape}{labels}" for (shape, labels), many in shapes.items()]
    text = " and ".join(parts)
    if demand.kind == "placement group":
        how = {"STRICT_SPREAD": ", each on another node", "STRICT_PACK": ", all on one node"}.get(demand.strategy, "")
        text = f"{text} at once{how}" if len(demand.requests) > 1 else text
    name = f" {demand.name}" if demand.name else ""
    return f"{text} for {counted(count, demand.kind) if count > 1 else f'its {demand.kind}'}{name}"


def _shown(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items()) or "any node"


def _labels(request: Request) -> str:
    return "".join(f" with label {key}={value}" for key, value in request.labels.items())


def _impossible(demand: Demand, fleet: Fleet, profile: Profile) -> tuple[str, str] | None:
    """Why no group could ever hold it, and the fix; None if one could, or if that is not known."""
    for request in demand.requests:
        if not any(request.fits(ray_resources(g), ray_labels(g)) for g in profile.groups):
            return _no_group(request, profile)
    requests = demand.requests
    together = Request(_sum(requests), {k: v for r in requests for k, v in r.labels.items()})
    if demand.strategy == "STRICT_PACK" and not any(together.fits(ray_resources(g), ray_labels(g)) for g in profile.groups):
        return (
            f"no node of a group has {_shown(together.counted)}, and it must be on one",
            f"use a strategy that may spread it, such as PACK, or a group with larger nodes ({_offers(profile)})",
        )
    if len({repr((r.counted, dict(r.labels))) for r in requests}) > 1:
        return None  # how unlike bundles fit together is the autoscaler's to find out
    room = sum(_room(requests[0], g, fleet, one=demand.strategy == "STRICT_SPREAD") for g in profile.groups)
    if room >= len(requests):
        return None
    limits = ", ".join(
        f"groups.{g.name}.max is {_most(g, fleet)}" for g in profile.groups if _room(requests[0], g, fleet, True)
    )
    these = counted(room, "node") if demand.strategy == "STRICT_SPREAD" else f"{room} of these"
    return (
        f"all groups at their maximum have room for {these} ({limits})",
        f"raise max of a group, or ask for at most {room} at once",
    )


def _no_group(request: Request, profile: Profile) -> tuple[str, str]:
    unlabelled = Request(request.resources)
    large = [g.name for g in profile.groups if unlabelled.fits(ray_resources(g), ray_labels(g))]
    if large:
        what = f"no group has{_labels(request).removeprefix(' with')}; {', '.join(large)} would be large enough without it"
        return what, "correct the label, or leave it out: heliostat render shows those of each group"
    return (
        f"no group has nodes with {_shown(request.counted)} ({_offers(profile)})",
        "ask for less, or add a group with larger nodes to the profile",
    )


def _offers(profile: Profile) -> str:
    return "; ".join(f"{g.name} has {_shown({k: v for k, v in ray_resources(g).items() if v})}" for g in profile.groups)


def _sum(requests: Sequence[Request]) -> dict[str, float]:
    names = {name for request in requests for name in request.counted}
    sums = {name: sum(request.counted.get(name, 0.0) for request in requests) for name in sorted(names)}
    return {name: round(amount * PARTS) / PARTS for name, amount in sums.items()}


def _most(group: WorkerGroup, fleet: Fleet) -> int:
    return fleet[group.name].most if group.name in fleet else group.max


def _room(request: Request, group: WorkerGroup, fleet: Fleet, one: bool) -> int:
    """How many such requests a group at its maximum can hold; at most one a node if ``one``."""
    resources = ray_resources(group)
    if not request.fits(resources, ray_labels(group)):
        return 0
    # Ray counts in ten-thousandths; as floats, 1 // 0.1 is 9.
    times = [
        round(resources[name] * PARTS) // max(1, round(amount * PARTS))
        for name, amount in request.counted.items()
        if name in resources
    ]
    return _most(group, fleet) * (1 if one else min(times, default=UNLIMITED))


def _limit(
    group: WorkerGroup, nodes: GroupNodes, ray: RayState, profile: Profile, since: float | None, now: float
) -> tuple[str, str, str]:
    """What limits a group that could hold a request: the cause, the fix, and what happens next."""
    name = group.name
    if nodes.starting:
        asked = min((each for each in nodes.starting.values() if each), default=None)
        until = f", until {at(asked + group.start_seconds)}" if asked else ""
        return (
            f"{name} starts {counted(len(nodes.starting), 'node')}: {', '.join(sorted(nodes.starting))}",
            "",
            f"a node may take {group.start_seconds} s to start (groups.{name}.start_seconds){until}",
        )
    if nodes.asked > nodes.count:
        return (
            f"the autoscaler wants {counted(nodes.asked, 'node')} of {name}, and {nodes.count} exist",
            "see whether KubeRay's operator runs: heliostat doctor",
            "the operator makes the others as soon as it can",
        )
    if nodes.count >= nodes.most:
        jobs = list(dict.fromkeys(ray.job_of(h.driver) for h in ray.holdings if h.node in nodes.ready))
        stops = some([f"heliostat stop {profile.name} {job}" for job in jobs], SHOWN)
        stop = f"stop what holds them ({stops}), or " if jobs else ""
        return (
            f"{name} has its maximum of {counted(nodes.most, 'node')} (groups.{name}.max): {_held(ray, nodes.ready)}",
            f"{stop}raise groups.{name}.max in the profile",
            "it gets a node as soon as one of them is free",
        )
    passed = now - since if since else None
    if passed is not None and passed > BEHIND_SECONDS:
        return (
            f"{name} has {counted(nodes.count, 'node')} of {nodes.most}, and the autoscaler asked for none in {passed:.0f} s",
            "see the autoscaler's log (kubectl logs of the head's pod, container autoscaler): it is down, or behind",
            "",
        )
    return (
        f"{name} has {counted(nodes.count, 'node')} of {nodes.most}, none that is free",
        "",
        "the autoscaler asks for a node within seconds",
    )


def _held(ray: RayState, nodes: Sequence[str]) -> str:
    """What holds nodes, those that are held alike together; of many the first few, and how many others there are."""
    alike: dict[str, list[str]] = {}
    for node in nodes:
        alike.setdefault(holders(ray, node), []).append(node)
    others = {text: f", as {counted(len(names) - 1, 'other node')}" if names[1:] else "" for text, names in alike.items()}
    clauses = [f"{names[0]} {text}{others[text]}" for text, names in alike.items()]
    more = [f"and {len(clauses) - SHOWN} more"] if len(clauses) > SHOWN else []
    return "; ".join([*clauses[:SHOWN], *more])


def holders(ray: RayState, node: str) -> str:
    """What holds a node, in words: the jobs, by what, and how busy its GPUs are."""
    mine = [holding for holding in ray.holdings if holding.node == node]
    usage = ray.nodes.get(node)
    if not mine:
        free = usage is not None and usage.idle_seconds is not None
        return "is free" if free else "is in use, by what is not known"
    texts = [f"job {ray.job_of(h.driver)} ({h.what}: {_shown(h.amounts)})" for h in mine]
    busy = "" if usage is None or usage.gpu_percent is None else f", and its GPUs are {usage.gpu_percent:.0f} % busy"
    return f"is held by {' and '.join(dict.fromkeys(texts))}{busy}"


def uses(ray: RayState, fleet: Fleet, profile: Profile, *, idle: bool) -> Iterator[Problem]:
    """What holds each node with GPUs, and why it does not go; not a wait.

    Args:
        ray: what Ray knows.
        fleet: the nodes.
        profile: the desired cluster.
        idle: only those that do nothing, as far as that is known.
    """
    for group in profile.groups:
        nodes = fleet.get(group.name, GroupNodes(group.max))
        for name in nodes.ready if group.gpu else ():
            usage = ray.nodes.get(name)
            if usage is None:
                what, fix, then = "is not listed by Ray, so that its use is not known", "", ""
            elif usage.idle_seconds is not None:
                what, fix, then = _stays(group, nodes, usage.idle_seconds, profile)
            elif usage.gpu_percent == 0 or not usage.gpus_used:
                nothing = "no job has asked for its GPUs" if not usage.gpus_used else "its GPUs compute nothing now"
                what = f"{holders(ray, name)}: {nothing}"
                fix, then = "stop what holds it, or let it release its GPUs when it does not compute", _GOES
            elif not idle:
                unknown = "" if usage.gpu_percent is not None else "; how busy its GPUs are is not known: Ray sees no device"
                what, fix, then = f"{holders(ray, name)}{unknown}", "", _GOES
            else:
                continue
            yield Problem(f"use {name}", f"{name} {what}", fix, math.inf, group=group.name, then=then)


_GOES = "it goes when nothing holds it any more"


def _stays(group: WorkerGroup, nodes: GroupNodes, seconds: float, profile: Profile) -> tuple[str, str, str]:
    name = group.name
    if nodes.count <= group.min:
        fix = f"lower groups.{name}.min, or heliostat down {profile.name}"
        return f"is free, and stays: groups.{name}.min is {group.min}", fix, ""
    limit = f"groups.{name}.idle_seconds is {group.idle_seconds}"
    if seconds > 2 * group.idle_seconds + BEHIND_SECONDS:
        return (
            f"is free for at least {seconds:.0f} s, and has not gone, though {limit}",
            "an object or an actor without resources may keep it: kubectl logs of the head, container autoscaler, names it",
            "",
        )
    return f"is free for at least {seconds:.0f} s", "", f"it goes after {group.idle_seconds} s without work ({limit})"
