"""The control plane: studies as Kubernetes objects. It uses `experiment` and `planning` only."""
