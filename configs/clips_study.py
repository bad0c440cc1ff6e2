"""Clips as torch data sets have them, for clips.yaml beside this file."""

from typing import Any

import torch
from torch import Tensor


class Clips:
    """Squares that move to the right: mappings with a clip `[T, 3, H, W]` of bytes and a label."""

    def __init__(self, count: int = 4, frames: int = 8, size: int = 64) -> None:
        self._count, self._frames, self._size = count, frames, size

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip = torch.zeros(self._frames, 3, self._size, self._size, dtype=torch.uint8)
        for frame in range(self._frames):
            left = (4 * frame + 8 * index) % (self._size - 16)
            clip[frame, :, 16:32, left : left + 16] = 255
        return {"video": clip, "label": index}


def normalise(clip: Tensor) -> Tensor:
    """Values as the network was trained on, with the mean and deviation of Kinetics-400."""
    mean = torch.tensor([0.43216, 0.394666, 0.37645]).view(3, 1, 1)
    std = torch.tensor([0.22803, 0.22145, 0.216989]).view(3, 1, 1)
    return (clip / 255 - mean) / std
