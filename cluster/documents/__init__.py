"""From a profile to Kubernetes documents: pure functions, and the operator's own rules."""
