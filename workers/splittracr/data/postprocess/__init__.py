"""Post-processors, which convert raw output to predictions: one module for each task."""

from splittracr.data.postprocess.registry import create, register

__all__ = ["create", "register"]
