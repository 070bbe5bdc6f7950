"""The dashboards as tables of panels; what Grafana's JSON has beyond that is the same for all.

``python -m heliostat.reference`` writes the JSON.
"""

from dataclasses import dataclass
from typing import Any

SCHEMA = 39
"""The version of the dashboards' JSON: that of Grafana 11; later ones convert it."""
WIDTH, HEIGHT = 12, 8
"""Of a panel; a row is 24 wide."""
SOURCE = {"type": "prometheus", "uid": "${source}"}
CLUSTER = 'ray_io_cluster=~"$cluster"'
RUN = f'{CLUSTER},run=~"$run"'


@dataclass(frozen=True)
class Panel:
    """A figure with one or more queries.

    Args:
        title: of the panel.
        unit: of its values, by Grafana's names.
        queries: the legend of each and its expression.
        kind: ``timeseries``, or ``stat`` for the last values in large.
        stacked: whether the values of a time series add up.
    """

    title: str
    unit: str
    queries: dict[str, str]
    kind: str = "timeseries"
    stacked: bool = False


@dataclass(frozen=True)
class Dashboard:
    """A page of panels.

    Args:
        name: of its file.
        title: of the page.
        since: the begin of the time that it shows at first.
        variables: what can be chosen: the name, and the metric and the label that have the values.
        panels: in the order of reading.
    """

    name: str
    title: str
    since: str
    variables: dict[str, tuple[str, str]]
    panels: tuple[Panel, ...]


def by(labels: str, metric: str, how: str = "sum", where: str = CLUSTER) -> dict[str, str]:
    """The query that combines a metric's series by some of their labels, with these as its legend."""
    legend = " ".join(f"{{{{{label}}}}}" for label in labels.split(", "))
    return {legend: f"{how} by ({labels}) (ray_heliostat_{metric}{{{where}}})"}


def of_runs(metric: str, labels: str = "run", where: str = RUN) -> dict[str, str]:
    """The query for a metric of the chosen runs; a run has one driver at a time."""
    return by(labels, f"run_{metric}", "max", where)


def since(query: dict[str, str]) -> dict[str, str]:
    """A query for how long ago a time is."""
    return {legend: f"time() - {expression}" for legend, expression in query.items()}


def beside(suffix: str, query: dict[str, str]) -> dict[str, str]:
    """The query with a longer legend, to stand beside another one of the same labels."""
    return {f"{legend} {suffix}": expression for legend, expression in query.items()}


def spent(labels: str, time: str) -> dict[str, str]:
    """The query for the money spent in a time."""
    (legend,) = by(labels, "group_cost_total")
    return {legend: f"sum by ({labels}) (increase(ray_heliostat_group_cost_total{{{CLUSTER}}}[{time}]))"}


OF_CLUSTER = {"cluster": ("ray_heliostat_group_nodes", "ray_io_cluster")}
OF_RUN = {**OF_CLUSTER, "run": ("ray_heliostat_run_workers_ready", "run")}
HEAD = f'{CLUSTER},IsHeadNode="true"'
MEMORY = {"{{ray_io_cluster}}": f"max by (ray_io_cluster) (ray_node_mem_used{{{HEAD}}} / ray_node_mem_total{{{HEAD}}})"}
SECONDS = "sum by (run) (ray_heliostat_run_goodput_seconds{{{}}})"
GOODPUT = {"{{run}}": f"""{SECONDS.format(RUN + ',kind="productive"')} / {SECONDS.format(RUN + ',kind!="idle"')}"""}
NODES = Panel("Nodes", "short", by("group, state", "group_nodes"), stacked=True)
GPUS = Panel("GPUs", "short", by("group, state", "group_gpus"), stacked=True)
MONEY = Panel("Money an hour", "currencyUSD", by("group", "group_cost_per_hour"), stacked=True)
WORKERS = Panel("Workers", "short", of_runs("workers_ready") | beside("desired", of_runs("workers_desired")))
SAMPLES = Panel("Samples a second", "short", of_runs("samples_per_second"))
DASHBOARDS = (
    Dashboard(
        "overview", "Heliostat: overview", "now-3h", OF_RUN,
        (
            NODES, GPUS, MONEY, WORKERS, SAMPLES,
            Panel("The longest wait for a node", "s", by("group, cause", "group_wait_seconds", "max")),
            Panel("Trials of sweeps", "short", by("sweep, state", "sweep_trials"), stacked=True),
            Panel("The best value of sweeps", "short", by("sweep, metric", "sweep_best_value", "max")),
            Panel("Memory of the head", "percentunit", MEMORY),
            Panel("Since the nodes were seen", "s", since(by("ray_io_cluster", "nodes_seen_timestamp_seconds", "max"))),
        ),
    ),
    Dashboard(
        "run", "Heliostat: run", "now-3h", OF_RUN,
        (
            Panel("Loss", "short", of_runs("loss")),
            Panel("Step", "short", of_runs("step") | beside("of all", of_runs("steps"))),
            SAMPLES,
            Panel("Steps a second", "short", of_runs("steps_per_second")),
            Panel("Waiting for data", "percentunit", of_runs("data_wait_ratio")),
            Panel("Goodput", "percentunit", GOODPUT),
            Panel("Worker-seconds", "s", of_runs("goodput_seconds", "run, kind"), stacked=True),
            WORKERS,
            Panel("Restarts", "short", of_runs("restarts", "run, cause")),
            Panel("Since the last checkpoint", "s", since(of_runs("checkpoint_timestamp_seconds"))),
            Panel("A checkpoint", "s", of_runs("checkpoint_seconds")),
            Panel("Since the last sign of progress", "s", since(of_runs("progress_timestamp_seconds"))),
        ),
    ),
    Dashboard(
        "cost", "Heliostat: cost", "now/d", OF_CLUSTER,
        (
            Panel("Spent in this time", "currencyUSD", spent("ray_io_cluster", "$__range"), "stat"),
            Panel("Budget a day", "currencyUSD", by("ray_io_cluster", "budget_per_day", "max"), "stat"),
            Panel("Spent in the last 30 days", "currencyUSD", spent("ray_io_cluster", "30d"), "stat"),
            Panel("Budget a month", "currencyUSD", by("ray_io_cluster", "budget_per_month", "max"), "stat"),
            MONEY,
            Panel("Spent in the last 24 hours", "currencyUSD", spent("group", "1d"), stacked=True),
            GPUS,
            NODES,
        ),
    ),
)  # fmt: skip


def document(dashboard: Dashboard) -> dict[str, Any]:
    """The JSON of a dashboard, which Grafana imports."""
    source = {
        "name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1, "multi": False,
        "includeAll": False, "options": [], "current": {}, "hide": 0, "regex": "", "skipUrlSync": False,
    }  # fmt: skip
    return {
        "uid": f"heliostat-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["heliostat"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": dashboard.since, "to": "now"},
        "templating": {"list": [source, *(_variable(name, *about) for name, about in dashboard.variables.items())]},
        "panels": [_panel(number, panel) for number, panel in enumerate(dashboard.panels)],
    }


def _variable(name: str, metric: str, label: str) -> dict[str, Any]:
    return {
        "name": name, "label": name, "type": "query", "datasource": SOURCE, "refresh": 2, "multi": True, "includeAll": True,
        "query": {"qryType": 1, "query": f"label_values({metric},{label})", "refId": name}, "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]}, "options": [],
        "hide": 0, "regex": "", "skipUrlSync": False, "sort": 1,
    }  # fmt: skip


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    stacking = {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 30} if panel.stacked else {}
    return {
        "id": number + 1,
        "title": panel.title,
        "type": panel.kind,
        "datasource": SOURCE,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": number % 2 * WIDTH, "y": number // 2 * HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": stacking}, "overrides": []},
        "options": {},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for place, (legend, expression) in enumerate(panel.queries.items())
        ],
    }
