"""SDV's description of tables whose kinds are known, where its own detection goes wrong."""

import pandas as pd
from sdv.metadata import Metadata

from sdv_constrained_diffusion.power.tables import TOPOLOGY


def operating_point_metadata(table: pd.DataFrame, table_name: str = 'operating_points') -> Metadata:
    """Metadata of a power-flow table: 'topology' is a category, every other column a number, none a key.

    SDV's detection goes by names and values: it takes 'p_from_mw_line_1' for an address, and a flow that differs in
    every row for the table's key.

    Args:
        table: operating points, as `power.scenarios` draws them or `power.table_files.read_table` reads them.
        table_name: the table's name.
    """
    columns = {str(name): {'sdtype': 'categorical' if name == TOPOLOGY else 'numerical'} for name in table.columns}
    return Metadata.load_from_dict({'tables': {table_name: {'columns': columns}}, 'relationships': []})
