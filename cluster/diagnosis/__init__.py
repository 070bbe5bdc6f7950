"""Diagnosis of a cluster or a job that does not start, from the objects in the API server."""
