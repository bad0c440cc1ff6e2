"""A real Prometheus scrapes operator and workers; dashboards and alerts find what they ask for."""
