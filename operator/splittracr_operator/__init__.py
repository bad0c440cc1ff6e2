"""The control plane: studies as Kubernetes objects.

Of the workers' package it uses `experiment`, `security` and `exposition` only.
"""
