"""Dashboards for Grafana and alert rules for Prometheus, on the metrics of docs/monitoring.md."""
