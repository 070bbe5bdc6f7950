"""The names on which documents and those who read them agree."""

from typing import Any

Document = dict[str, Any]
"""An object of Kubernetes, as its API server has it."""

API_VERSION = "ray.io/v1"
CLUSTER_LABEL, SCHEDULED_LABEL = "heliostat.dev/cluster", "heliostat.dev/cron"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
MANAGER = "heliostat"
"""The field manager of what we write."""
AGAIN = "heliostat.dev/again"
"""The annotation by which the operator is asked to try again at once."""
TEMPLATE = "heliostat.dev/template"
"""The annotation with the mark of a pod's template, by which old pods can be told."""
SUSPENDED = "heliostat.dev/suspended"
"""The annotation that says why a cluster is suspended."""
TOKEN_KEY = "auth_token"
"""The key of a cluster's token in its Secret."""
PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}
"""The named ports of a head. KubeRay finds the dashboard by its name."""
