"""GridFM's long Parquet tables, read and written (gridfm-datakit 1.x, the folder `raw`).

Each of these is a Parquet data set, partitioned into `scenario_partition=<scenario // 200>`; powers are in MW and Mvar,
demand and generation both positive, angles in degrees:

- `bus_data.parquet`: scenario, load_scenario_idx, bus, Pd, Qd, Pg, Qg, Vm (p.u.), Va, PQ, PV, REF (1 or 0), vn_kv,
  min_vm_pu, max_vm_pu, GS, BS (p.u.);
- `gen_data.parquet`: scenario, load_scenario_idx, idx, bus, p_mw, q_mvar, limits, costs, in_service, is_slack_gen;
- `branch_data.parquet`: scenario, load_scenario_idx, idx, from_bus, to_bus, pf, qf, pt, qt (what enters at either end),
  r, x, b, Yff_r, ... (p.u.), tap, shift, ang_min, ang_max, rate_a (MVA), br_status;
- `y_bus_data.parquet`: scenario, load_scenario_idx, index1, index2, G, B (p.u.).

The first releases wrote single files without `load_scenario_idx`; they are read as well. GridFM counts buses 0..n-1:
bus k is the one with the k-th smallest of pandapower's ids, as gridfm-datakit numbers the buses of a MATPOWER file.

Three files of ours stand beside: `load_data.parquet` with the demand of each load, which GridFM sums per bus;
`row_data.parquet` with the columns that GridFM has no place for, those that are not float64, and the table's index;
`names.json` with the names of the table's columns and of the elements. Other programs need not know them.
"""

from sdv_constrained_diffusion.power.gridfm.reading import is_gridfm, read_gridfm
from sdv_constrained_diffusion.power.gridfm.writing import write_gridfm

__all__ = ['is_gridfm', 'read_gridfm', 'write_gridfm']
