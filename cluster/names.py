"""Names shared by the code that writes Kubernetes documents and the code that reads them."""

from typing import Any

Document = dict[str, Any]
"""A Kubernetes object as JSON."""

API_VERSION = "ray.io/v1"
CLUSTER_LABEL, SCHEDULED_LABEL, TEAM_LABEL = "heliostat.dev/cluster", "heliostat.dev/cron", "heliostat.dev/team"
MANAGED_BY = "app.kubernetes.io/managed-by"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
ELASTIC = "kueue.x-k8s.io/elastic-job"
"""The annotation of a cluster in a queue that grows and shrinks, and the gate of its pods until their quota is there."""
OF_WORKLOAD = "kueue.x-k8s.io/workload"
"""The annotation of a pod with the Workload that Kueue has admitted it with, and the beginning of another one's name."""
BUDGETS = {period: f"heliostat.dev/budget-{period}" for period in ("day", "month")}
"""The labels of a namespace with the budget of its team, by period."""
TEAM_BUDGET, TEAM_LIMITS = "budget.heliostat.dev", "limits.json"
"""The ConfigMap of a namespace, and the file in it, by which recorders stop what runs when the budget of its team is spent."""
ENFORCE = "pod-security.kubernetes.io/enforce"
"""The label of a namespace with the pod-security level."""
MANAGER = "heliostat"
"""The field manager of our writes."""
RETRY = "heliostat.dev/again"
"""Annotation; a new value makes the operator retry at once."""
TEMPLATE = "heliostat.dev/template"
"""Annotation with the hash of a pod's template; a pod with another hash is outdated."""
SUSPENDED = "heliostat.dev/suspended"
"""Annotation with the reason why a cluster is suspended."""
TOKEN_KEY = "auth_token"
"""The key of a cluster's token in its Secret."""
PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}
"""The named ports of a head. KubeRay finds the dashboard by its name."""
POD_MONITOR = "PodMonitor"
"""The kind of Prometheus Operator that has it scrape pods, and the feature of a Kubernetes that has the kind."""
METRICS_PORT = 8090
"""Where the recorder beside the head has the metrics of the groups and of the head's Ray."""
