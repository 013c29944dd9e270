"""A device that every machine has: its tensors hold values, and must not meet tensors that are not on it.

Under `Device`, modules and tensors go there by `.to(NAME)`, as to a GPU by `.to('cuda')`, and come back by `.cpu()`.
As on CUDA, a tensor of another device is an error in an operation, but for a scalar, the source of `copy_` and what
`tensor[...]` takes for an index; so is the processor's generator. As on Apple's MPS, double precision is an error:
numbers must be rounded before they go there, and be widened after they came back. CUDA is stricter than this device: it
takes scalars only in operations element by element, and lacks some kernels that the processor has.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = 'meta'
"""What its tensors say they are on; of torch's devices the one that needs no hardware."""

INDEXING = ('index', 'index_put', 'index_put_', '_index_put_impl_')
"""Operations whose second argument, the indices, may be here."""


class Elsewhere(Tensor):
    """A tensor on the device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> 'Elsewhere':
        if held.dtype == torch.float64:
            raise TypeError('the device has no double precision')
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


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    if name == 'copy_':
        if args[0].dtype == torch.float64 and not _is_here(args[1]):
            raise TypeError('the device has no double precision')
        _held(args[0]).copy_(_held(args[1]))
        return args[0]
    there = any(isinstance(leaf, Elsewhere) for leaf in tree_leaves((args, kwargs)))
    met = (args[0], args[2:]) if name in INDEXING else (args, kwargs)
    if there and any(_is_here(leaf) and leaf.dim() for leaf in tree_leaves(met)):
        raise RuntimeError(f'{name} got tensors of two devices')
    if there and kwargs.get('dtype') == torch.float64:
        raise TypeError('the device has no double precision')
    if kwargs.get('device') is not None:
        there = torch.device(kwargs['device']).type == NAME
        kwargs = kwargs | {'device': 'cpu'}
    if there and kwargs.get('generator') is not None:
        raise RuntimeError(f'{name} got the generator of another device')
    out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    return tree_map(lambda leaf: Elsewhere(leaf) if isinstance(leaf, Tensor) else leaf, out) if there else out


def _is_here(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, Elsewhere)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value
