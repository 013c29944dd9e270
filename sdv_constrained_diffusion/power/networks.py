"""Networks by name or from a file: pandapower's own collection, pandapower's JSON, MATPOWER's case files."""

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdv_constrained_diffusion.errors import GridError, MissingExtraError, close_names
from sdv_constrained_diffusion.power.nets import import_pandapower

SUFFIXES = ('.json', '.m', '.mat')
"""Files that can be read: pandapower's JSON, and MATPOWER's case files as text and as MATLAB data."""


def read_network(source: str | Path) -> Any:
    """Reads a network.

    Args:
        source: name of a network in `pandapower.networks`, such as 'case118'; or path of a file: `.json` (written by
            `pandapower.to_json`), `.m` or `.mat` (MATPOWER, by `pandapower.converter`; `.m` needs the library
            `matpowercaseframes`).

    Returns:
        a `pandapowerNet`; one without a name is called as its source.

    Raises:
        GridError: the name is unknown, the file is missing, or it cannot be read.
        MissingExtraError: pandapower or, for an `.m` file, `matpowercaseframes` is not installed.
    """
    import_pandapower('read_network')
    path = Path(source)
    net = _from_file(path) if path.suffix in SUFFIXES else _by_name(str(source))
    net.name = net.name or path.stem
    return net


def network_names() -> list[str]:
    """Names of the networks in `pandapower.networks`."""
    return list(_collection())


def _by_name(name: str) -> Any:
    makers = _collection()
    if name not in makers:
        close = close_names(name, makers)
        looks = f' Names that look close: {", ".join(map(repr, close))}.' if close else ''
        raise GridError(
            f'read_network needs the name of a network in pandapower.networks, or the path of a file that ends with '
            f'{", ".join(SUFFIXES)}, but got {name!r}.{looks} Pass one of network_names(), or write the network with '
            "pandapower.to_json(net, 'net.json') and pass that path."
        )
    return makers[name]()


def _collection() -> dict[str, Callable[[], Any]]:
    """The functions of `pandapower.networks` that make a network without being told anything."""
    module = importlib.import_module('pandapower.networks')
    return {
        name: maker
        for name, maker in inspect.getmembers(module, inspect.isfunction)
        if maker.__module__.startswith(f'{module.__name__}.') and not _required(maker)
    }


def _required(maker: Callable[..., Any]) -> bool:
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(maker).parameters.values()
    return any(each.kind in named and each.default is inspect.Parameter.empty for each in parameters)


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise GridError(
            f'read_network needs an existing file, but {str(path)!r} is none. Check the path, or pass a name of '
            'pandapower.networks without a suffix, such as case118.'
        )
    if path.suffix == '.m' and importlib.util.find_spec('matpowercaseframes') is None:
        raise MissingExtraError.of(f'read_network of {path.name!r}', 'matpowercaseframes', 'matpower')
    wanted, way_out, read = _READERS[path.suffix]
    try:
        return read(str(path))
    except Exception as error:
        raise GridError(
            f'read_network needs {wanted}, but {str(path)!r} cannot be read as one: {type(error).__name__}: {error} '
            f'{way_out}'
        ) from error


def _from_json(path: str) -> Any:
    return importlib.import_module('pandapower').from_json(path)


def _from_matpower(path: str) -> Any:
    return importlib.import_module('pandapower.converter.matpower.from_mpc').from_mpc(path)


_MATPOWER = ('a case file of MATPOWER, format 2', 'Write it anew with savecase of MATPOWER.', _from_matpower)
_READERS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    '.json': ('a network of pandapower', 'Write it anew with pandapower.to_json.', _from_json),
    '.m': _MATPOWER,
    '.mat': _MATPOWER,
}
