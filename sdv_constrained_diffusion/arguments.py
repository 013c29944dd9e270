"""The synthesizer's arguments: each is checked before anything is computed."""

from typing import Any

import numpy as np
from sdv.errors import SynthesizerInputError

from sdv_constrained_diffusion.diffusion.devices import is_available
from sdv_constrained_diffusion.model import GUIDANCE


def check_guidance(guidance: Any, guidance_scale: Any) -> None:
    """A name and a strength of guidance."""
    check_choice('guidance', guidance, ('none', *GUIDANCE))
    number = isinstance(guidance_scale, int | float | np.number)
    if not (number and 0 <= guidance_scale < float('inf')):
        raise SynthesizerInputError(f"'guidance_scale' must be a finite number of at least 0; got {guidance_scale!r}.")


def check_seed(seed: Any) -> None:
    """A whole number that can seed, or None."""
    if seed is not None and not _is_whole(seed, 0):
        raise SynthesizerInputError(f"'seed' must be a whole number of at least 0, or None; got {seed!r}.")


def check_seconds(argument: str, value: Any) -> None:
    """A time, or None."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < float('inf')):
        raise SynthesizerInputError(f'{argument!r} must be a number of seconds above 0, or None; got {value!r}.')


def check_positive(argument: str, value: Any, wanted: str = 'a whole number above 0, or None') -> None:
    """A whole number above 0, or None; `wanted` says it in the error."""
    if value is not None and not _is_whole(value, 1):
        raise SynthesizerInputError(f'{argument!r} must be {wanted}; got {value!r}.')


def check_num_rows(num_rows: Any) -> None:
    """A whole number of at least 0."""
    if not _is_whole(num_rows, 0):
        raise SynthesizerInputError(f"'num_rows' must be a whole number of at least 0; got {num_rows!r}.")


def check_epochs(epochs: Any) -> None:
    """A whole number above 0, 'auto', or None."""
    if not (isinstance(epochs, str) and epochs == 'auto'):
        check_positive('epochs', epochs, "'auto', a whole number above 0, or None")


def check_choice(argument: str, value: Any, choices: Any) -> None:
    """One of several names."""
    if not isinstance(value, str) or value not in choices:
        raise SynthesizerInputError(f'{argument!r} must be one of {sorted(choices)}; got {value!r}.')


def check_switch(argument: str, value: Any) -> None:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise SynthesizerInputError(f'{argument!r} must be True or False; got {value!r}.')


def check_gpu(enable_gpu: Any) -> None:
    """True or False, or the kind of device that is used only where it is asked for."""
    if not isinstance(enable_gpu, bool | np.bool_) and enable_gpu != 'mps':
        raise SynthesizerInputError(f"'enable_gpu' must be True, False or 'mps'; got {enable_gpu!r}.")


def device_of(enable_gpu: bool | str) -> str:
    """The device that trains and samples: 'cuda' where there is one, 'mps' where it is asked for, else 'cpu'."""
    if enable_gpu == 'mps':
        if not is_available('mps'):
            raise SynthesizerInputError(
                "enable_gpu='mps' needs Apple's Metal Performance Shaders, which this machine, or this build of torch, "
                'lacks. Pass True or False.'
            )
        return 'mps'
    return 'cuda' if enable_gpu and is_available('cuda') else 'cpu'


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= least
