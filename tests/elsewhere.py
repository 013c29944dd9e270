"""A device that every machine has: its tensors hold values, and must not meet tensors that are not on it.

`send` moves a module there, as `.to('cuda')` moves it to a GPU. Such tensors say that they are on the device 'meta'.
Under `Device`, other tensors go there by `.to(tensor)` and come back by `.cpu()` or `.to(tensor)`. As on CUDA, a tensor
of another device is an error in an operation, but for a scalar, the source of `copy_` and what `tensor[...]` takes for
an index; so is the processor's generator. CUDA is stricter: it takes scalars only in operations element by element, and
lacks some kernels that the processor has.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = 'meta'

INDEXING = ('index', 'index_put', 'index_put_', '_index_put_impl_')
"""Operations whose second argument, the indices, may be here."""


class Elsewhere(Tensor):
    """A tensor on the device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> 'Elsewhere':
        made = Tensor._make_wrapper_subclass(cls, held.shape, strides=held.stride(), dtype=held.dtype, device=NAME)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """While it is active, tensors can be moved to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def send(module: nn.Module) -> nn.Module:
    """Moves weights and buffers to the device, in place."""
    for part in module.modules():
        for name, weights in part._parameters.items():
            if weights is not None:
                part._parameters[name] = nn.Parameter(Elsewhere(weights.detach().clone()), weights.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = Elsewhere(buffer.clone())
    return module


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = [each for each in tensors if not isinstance(each, Elsewhere)]
    if name == 'copy_':
        _held(args[0]).copy_(_held(args[1]))
        return args[0]
    met = tree_leaves((args[0], args[2:])) if name in INDEXING else here
    if len(here) < len(tensors) and any(type(each) is Tensor and each.dim() for each in met):
        raise RuntimeError(f'{name} got tensors of two devices')
    device = kwargs.get('device')
    goes = len(here) < len(tensors) if device is None else torch.device(device).type == NAME
    if goes and kwargs.get('generator') is not None:
        raise RuntimeError(f'{name} got the generator of two devices')
    if goes and device is not None:
        kwargs = kwargs | {'device': 'cpu'}
    out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    return tree_map(lambda each: Elsewhere(each) if isinstance(each, Tensor) else each, out) if goes else out


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value
