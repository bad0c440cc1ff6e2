"""The runtime OnnxRuntime: both halves of a network as sessions of ONNX Runtime."""

import os

# Builds of ONNX Runtime send usage data to their maker, unless this is set before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
