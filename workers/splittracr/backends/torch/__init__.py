"""PyTorch as a backend. Outside of it, `data`, `models` and `splitting` nothing imports torch."""
