"""Dashboards and alerts, made from the table of metrics."""
