"""A power-flow table from whichever file holds it."""

from pathlib import Path

import pandas as pd

from sdv_constrained_diffusion.errors import GridError, MissingExtraError
from sdv_constrained_diffusion.power.grid import Grid
from sdv_constrained_diffusion.power.gridfm import is_gridfm, read_gridfm


def read_table(path: str | Path, grid: Grid) -> pd.DataFrame:
    """Reads a table of operating points.

    Args:
        path: a CSV or Parquet file or a Parquet folder with one operating point per row and the columns of
            `power.tables`; or a folder with GridFM's files, or its `bus_data.parquet`.
        grid: the network, whose elements GridFM's files number.

    Raises:
        GridError: there is no such file, it is of another kind or cannot be read, or as in `read_gridfm`.
        MissingExtraError: pyarrow is not installed, and the file is not a CSV file.
    """
    path = Path(path)
    if not path.exists():
        raise GridError(f'read_table needs an existing file or folder, but {str(path)!r} is none. Check the path.')
    for folder in (path, path.parent):
        if is_gridfm(folder) and path in (folder, folder / 'bus_data.parquet'):
            return read_gridfm(folder, grid)
    try:
        if path.suffix == '.csv':
            return pd.read_csv(path, float_precision='round_trip')
        if path.suffix in ('.parquet', '.pq') or _is_data_set(path):
            return pd.read_parquet(path)
    except ImportError as error:
        raise MissingExtraError.of('read_table', 'pyarrow', 'power') from error
    except (OSError, ValueError) as error:
        raise GridError(
            f'read_table needs a file that can be read by its name, as CSV or Parquet, but {str(path)!r} cannot: '
            f'{error} Get or write it anew.'
        ) from error
    raise GridError(
        f'read_table needs a .csv file, a .parquet file or folder, or a folder with the files of GridFM, but got '
        f'{str(path)!r}. Write the table with DataFrame.to_parquet, to_csv or write_gridfm.'
    )


def _is_data_set(path: Path) -> bool:
    """Whether a folder has Parquet files that its readers do not pass over."""
    files = (each.relative_to(path) for each in path.glob('**/*.parquet'))
    return any(not any(part.startswith(('.', '_')) for part in each.parts) for each in files)
