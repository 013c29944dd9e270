"""Devices that weights may be on: which there are, and how numbers get there and back."""

import torch
from torch import Tensor


def is_available(device: str) -> bool:
    """Whether this machine has it: 'cpu', 'cuda' or 'mps', Apple's, which has no double precision."""
    if device == 'cpu':
        return True
    return torch.cuda.is_available() if device == 'cuda' else torch.backends.mps.is_available()


def matching(values: Tensor, like: Tensor) -> Tensor:
    """Values in the precision and on the device of others; rounded before they leave the processor, widened after."""
    if values.device.type == 'cpu':
        return values.to(like.dtype).to(like.device)
    return values.to(like.device).to(like.dtype)
