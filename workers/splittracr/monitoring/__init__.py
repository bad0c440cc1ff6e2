"""Grafana dashboards as Python, and how to draw one from any Prometheus without Grafana."""
