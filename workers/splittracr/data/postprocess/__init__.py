"""From raw output to prediction: one module a task, found by name."""

from splittracr.data.postprocess.registry import create, register

__all__ = ["create", "register"]
