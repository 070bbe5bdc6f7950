"""Kubernetes documents of a profile, and the operator's validation rules: pure functions."""
