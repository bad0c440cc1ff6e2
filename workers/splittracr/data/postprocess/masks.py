"""Masks as run lengths, exact and hundreds of times smaller than pixels."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def encode(masks: Tensor) -> dict[str, Tensor]:
    """Encode masks `[n, H, W]` of dtype bool as three small tensors of int32.

    `mask_runs` has the lengths of runs of equal pixels over all masks in row order. False and true
    runs alternate; the first run is false and may have length 0. `mask_size` is (n, H, W).
    `mask_pixels` `[n]` counts the true pixels of each mask.
    """
    flat = masks.flatten()
    before = torch.cat([flat.new_zeros(1), flat])[:-1]
    starts = (flat != before).nonzero().flatten()
    bounds = torch.cat([starts.new_zeros(1), starts, starts.new_tensor([flat.numel()])])
    return {
        "mask_runs": bounds.diff().to(torch.int32),
        "mask_size": torch.tensor(masks.shape, dtype=torch.int32, device=masks.device),
        "mask_pixels": masks.flatten(1).sum(1).to(torch.int32),
    }


def decode(reduced: Mapping[str, Tensor]) -> Tensor:
    """Return the masks `[n, H, W]` of dtype bool that `encode` has encoded."""
    runs = reduced["mask_runs"].cpu().numpy()
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return torch.from_numpy(pixels).reshape(reduced["mask_size"].tolist())
