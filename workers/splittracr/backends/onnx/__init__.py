"""The runtime OnnxRuntime: both halves of a network as sessions of ONNX Runtime."""
