"""Clocks, facts about the machine and Prometheus metrics."""
