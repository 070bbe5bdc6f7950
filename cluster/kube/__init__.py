"""Client of the Kubernetes API server: objects, KubeRay, port-forwarding."""
