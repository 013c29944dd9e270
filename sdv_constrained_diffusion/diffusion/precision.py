"""Between double precision on the processor and a network's precision on its device, which may have no other."""

from torch import Tensor


def matching(values: Tensor, like: Tensor) -> Tensor:
    """Values in the precision and on the device of others; rounded before they leave the processor, widened after.

    Apple's MPS has no double precision, not even in passing.
    """
    if values.device.type == 'cpu':
        return values.to(like.dtype).to(like.device)
    return values.to(like.device).to(like.dtype)
