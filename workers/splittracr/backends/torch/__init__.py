"""PyTorch as a backend. Outside of it, `data`, `models` and `splitting` nothing imports torch."""

from splittracr.backends.torch.without_compiler import import_torchvision

import_torchvision()
