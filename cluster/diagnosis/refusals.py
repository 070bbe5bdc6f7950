"""What to change in a profile when Kubernetes refuses a pod, by the API server's or the kubelet's message."""

import re

FIXES = (
    (r"fsGroup: (Invalid|Forbidden)", "set fs_group: null: this Kubernetes chooses the group, as OpenShift does"),
    (r"runAsUser: (Invalid|Forbidden)", "remove run_as_user: this Kubernetes chooses the user, as OpenShift does"),
    (r"hostPath|restricted volume types", "replace host_path and nfs in volumes by a claim, or ask for another security level"),
    (r"violates PodSecurity", "remove what it names from pod, volumes or run_as_user, or use an image with a non-root user"),
    (r"PriorityClass", "create the priority class that it names, or correct priority_class"),
    (r"RuntimeClass", "create the runtime class that it names, or correct runtime_class"),
    (r"service ?account", "create the service account that it names, or correct service_account"),
    (r"admission webhook|ValidatingAdmissionPolicy", "change what this rule of the cluster names, or ask its owner"),
    (r"run as root|non-numeric user|non-root", "set run_as_user, such as 1000, or use an image with a user's number"),
)
"""A pattern in the message, and the fix."""
UNKNOWN = "correct what it names in the profile"


def fix_of_refusal(message: str) -> str:
    """The fix for a refused pod."""
    found = (fix for pattern, fix in FIXES if re.search(pattern, message, re.IGNORECASE))
    return next(found, UNKNOWN)
