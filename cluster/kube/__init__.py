"""The Kubernetes API server: objects, the client for KubeRay, port-forwarding."""
