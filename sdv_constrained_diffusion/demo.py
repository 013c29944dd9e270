"""The whole idea on real input: PJM 5-bus operating points in, feasible synthetic operating points out, one page."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sdv.metadata import Metadata

from sdv_constrained_diffusion.constraints.base import Constraint
from sdv_constrained_diffusion.constraints.feasibility import violations as violations_of
from sdv_constrained_diffusion.power.tables import SIGN_CONVENTION, column
from sdv_constrained_diffusion.report.document import Document, Figure, Section
from sdv_constrained_diffusion.report.fidelity import FidelityReport
from sdv_constrained_diffusion.report.figures import colours, joints, marginals, violations
from sdv_constrained_diffusion.synthesizer import ConstrainedDiffusionSynthesizer

TABLE = 'pjm5'
REAL = 'real, held out'
UNGUIDED, GRADIENT, GAUSS_NEWTON = 'without guidance', 'gradient guidance', 'Gauss-Newton guidance'
DELIVERED = 'guidance and projection'
VARIANTS = {
    UNGUIDED: ('none', False),
    GRADIENT: ('gradient', False),
    GAUSS_NEWTON: ('gauss_newton', False),
    DELIVERED: ('gauss_newton', True),
}
"""What is drawn from the one trained model: kind of guidance, and whether rows are projected."""


@dataclass(frozen=True)
class Result:
    """One figure of the summary.

    Attributes:
        name: what was measured, with its unit.
        value: what came out.
        target: what it should reach: `'<='` or `'>='`, and a number.
        floor: the same measure of two real tables, where there is one.
    """

    name: str
    value: float
    target: tuple[str, float]
    floor: float | None = None

    @property
    def met(self) -> bool:
        """Whether the value reaches the target; NaN never does."""
        sense, bound = self.target
        return bool(self.value <= bound if sense == '<=' else self.value >= bound)

    def __str__(self) -> str:
        """One line: whether the target is met, what, how much."""
        beside = '' if self.floor is None else f', floor {self.floor:.3g}'
        mark = 'ok    ' if self.met else 'MISSED'
        return f'{mark} {self.name}: {self.value:.3g} (target {self.target[0]} {self.target[1]:g}{beside})'


@dataclass
class Clock:
    """Wall time of each stage.

    Attributes:
        seconds: by the stage's name, in order.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what is done inside."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def run_pjm5(
    num_rows: int, out: str | Path, seed: int = 0, epochs: int | None = None, workers: int = 2, verbose: bool = True
) -> list[Result]:
    """Generates operating points of the PJM 5-bus system, learns them, draws new ones, judges them.

    Args:
        num_rows: number of training rows, of held-out rows and of synthetic rows.
        out: folder, made when missing, for `real.parquet`, `held_out.parquet`, `synthetic.parquet`, `model.pkl`,
            `report.html` and `report.json`; files of these names are replaced.
        seed: of loads, training and report.
        epochs: passes over the training rows; 'auto' when None.
        workers: processes that solve operating points.
        verbose: show progress on a terminal.

    Returns:
        the figures of the summary.

    Raises:
        MissingExtraError: a library of the extra `power` is missing.
    """
    from sdv_constrained_diffusion.power import scenarios
    from sdv_constrained_diffusion.power.constraints import PowerFlow
    from sdv_constrained_diffusion.power.nets import import_pandapower
    from sdv_constrained_diffusion.power.validation import verify_with_runpp

    started, clock, out = time.perf_counter(), Clock(), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    import_pandapower('The demo')
    from pandapower.networks import case5

    net = case5()
    net.name = 'PJM 5-bus'
    with clock.stage('operating points'):
        for name, each in zip(('real', 'held_out'), np.random.SeedSequence(seed).generate_state(2), strict=True):
            solved = scenarios.generate(
                net, num_rows, int(each), low=0.8, high=1.2, flow_limit='current', workers=workers, progress=verbose
            )
            solved.save_parquet(out / f'{name}.parquet')
        real, held_out = (pd.read_parquet(out / f'{name}.parquet') for name in ('real', 'held_out'))

    metadata = Metadata.detect_from_dataframes({TABLE: real})
    constraint = PowerFlow.from_pandapower(net, tolerance_mw=1e-6)
    synthesizer = ConstrainedDiffusionSynthesizer(metadata, epochs=epochs or 'auto', seed=seed, verbose=verbose)
    synthesizer.add_constraints([constraint])
    with clock.stage('training'):
        synthesizer.fit({TABLE: real})
    synthesizer.save(out / 'model.pkl')

    with clock.stage('sampling'):
        tables, cpu_seconds = _draw(synthesizer, num_rows)
        projection = synthesizer.get_projection_summary().iloc[0]
    synthetic = tables[DELIVERED]
    laws = synthesizer.constraint_report(synthetic)
    synthetic.to_parquet(out / 'synthetic.parquet')

    with clock.stage('independent check'):
        checked = verify_with_runpp(net, synthetic, num_rows=50, seed=seed)
    with clock.stage('report'):
        report = FidelityReport()
        report.generate(real, synthetic, metadata, [constraint], held_out, False, seed, laws)
        figures = _paper_figures({REAL: held_out, **tables}, constraint, net)

    mismatch = {label: violations_of([constraint], table)[1] / net.sn_mva for label, table in tables.items()}
    active = {label: each[:, : len(net.bus)].mean() for label, each in mismatch.items()}
    ks, auc = report.mean_ks_complement, report.auc
    results = [
        Result('largest P or Q mismatch of delivered rows, p.u. on 100 MVA', mismatch[DELIVERED].max(), ('<=', 1e-8)),
        Result(
            'share of rows drawn that had to be replaced', projection.num_replaced / projection.num_rows, ('<=', 1e-3)
        ),
        Result('displacement by projection, median, column std', projection.displacement_median, ('<=', 0.02)),
        Result('runpp on 50 rows: largest voltage gap, p.u.', checked['error_vm_pu'].max(skipna=False), ('<=', 1e-6)),
        Result(
            'runpp on 50 rows: largest angle gap, degree', checked['error_va_degree'].max(skipna=False), ('<=', 1e-4)
        ),
        Result('mean P mismatch, unguided over gradient-guided', active[UNGUIDED] / active[GRADIENT], ('>=', 2)),
        Result('mean P mismatch, unguided over Gauss-Newton', active[UNGUIDED] / active[GAUSS_NEWTON], ('>=', 100)),
        Result('mean KS complement against held-out rows', ks.score, ('>=', 0.97), ks.floor),
        Result('C2ST AUC against held-out rows', auc.score, ('<=', 0.58), auc.floor),
        Result(
            'sampling rate, delivered over plain rows',
            cpu_seconds[UNGUIDED] / cpu_seconds[DELIVERED],
            ('>=', 0.8),
        ),
        Result('seconds in all', time.perf_counter() - started, ('<=', 240)),
    ]
    page = _page(results, clock, [figures, *report.sections()], num_rows)
    page.to_html(out / 'report.html')
    page.to_json(out / 'report.json')
    return results


def _draw(
    synthesizer: ConstrainedDiffusionSynthesizer, num_rows: int
) -> tuple[dict[str, pd.DataFrame], dict[str, float]]:
    """Rows of every variant from the same noise, and the CPU seconds of the faster of two turns."""
    tables, cpu_seconds = {}, dict.fromkeys(VARIANTS, float('inf'))
    for _ in range(2):
        for label, (guidance, projection) in VARIANTS.items():
            synthesizer.guidance, synthesizer.projection = guidance, projection
            synthesizer.reset_sampling()
            start = time.process_time()
            tables[label] = synthesizer.sample(num_rows)[TABLE]
            cpu_seconds[label] = min(cpu_seconds[label], time.process_time() - start)
    return tables, cpu_seconds


def _paper_figures(tables: dict[str, pd.DataFrame], constraint: Constraint, net: Any) -> Section:
    """The figures of Hoseinpour and Dvorkin (2025) for this run."""
    buses = net.bus.index.tolist()
    units = {'p_mw': 'p in MW', 'q_mvar': 'q in Mvar', 'vm_pu': 'v in p.u.', 'va_degree': 'θ in degrees'}
    axes = {column(quantity, bus): f'{unit}, bus {bus}' for quantity, unit in units.items() for bus in buses}
    colour = colours(tables)
    judged = {label: tables[label] for label in (REAL, DELIVERED)}
    panels = [[column(quantity, bus) for bus in buses] for quantity in units]
    pairs = [(column('p_mw', bus), column('q_mvar', bus)) for bus in buses]
    active = [name for name in constraint.equation_names(2 * len(buses)) if name.startswith('P ')]
    return Section(
        title='Operating points',
        prose=f'Signs: {SIGN_CONVENTION}. All synthetic tables come from one trained model and the same noise.',
        figures=[
            Figure('Marginals of every bus (Fig. 4 of the paper).', marginals(judged, panels, axes, colour=colour)),
            Figure('Active and reactive power of every bus (Fig. 5).', joints(judged, pairs, axes, colour=colour)),
            Figure(
                'Violation of the active power balance, in MW, per bus (Fig. 6): guidance makes it small, projection '
                'makes it vanish.',
                violations({key: tables[key] for key in VARIANTS}, constraint, active, colour=colour),
            ),
        ],
    )


def _page(results: list[Result], clock: Clock, sections: list[Section], num_rows: int) -> Document:
    """The page, its summary on top."""
    lines = [
        {
            'Figure': each.name,
            'Value': each.value,
            'Floor of two real tables': each.floor,
            'Target': f'{"≤" if each.target[0] == "<=" else "≥"} {each.target[1]:g}',
            'Reached': 'yes' if each.met else 'no',
        }
        for each in results
    ]
    stages = ', '.join(f'{name} {seconds:.0f} s' for name, seconds in clock.seconds.items())
    return Document(
        title='PJM 5-bus: synthetic operating points that obey the power flow',
        subtitle=f'{num_rows} training, {num_rows} synthetic and {num_rows} held-out rows. Wall time: {stages}.',
        summary=pd.DataFrame(lines),
        sections=sections,
    )
