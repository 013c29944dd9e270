"""The command line: `constrained-diffusion`. Heavy libraries load when a command runs."""

from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
demos = typer.Typer(help='Complete runs on real input.', no_args_is_help=True)
constraints = typer.Typer(help='Constraints that are registered by name.', no_args_is_help=True)
app.add_typer(demos, name='demo')
app.add_typer(constraints, name='constraints')


@demos.command()
def pjm5(
    rows: Annotated[int, typer.Option(min=10, help='Training, held-out and synthetic rows, each.')] = 5000,
    out: Annotated[Path, typer.Option(help='Folder for tables, model and report.')] = Path('runs/pjm5'),
    seed: Annotated[int, typer.Option(help='Of loads, training and report.')] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help='Passes over the training rows.')] = None,
    workers: Annotated[int, typer.Option(min=1, help='Processes that solve operating points.')] = 2,
) -> None:
    """PJM 5-bus: solve operating points, learn them, draw new ones, write one report."""
    from sdv_constrained_diffusion.demo import run_pjm5
    from sdv_constrained_diffusion.errors import ConstrainedDiffusionError

    try:
        results = run_pjm5(rows, out, seed=seed, epochs=epochs, workers=workers)
    except ConstrainedDiffusionError as error:
        _fail(str(error))
    for result in results:
        typer.echo(str(result))
    typer.echo(f'report: {out / "report.html"}')


@app.command()
def validate(
    net: Annotated[str, typer.Argument(help='Name of a pandapower case, or a .json, .m or .mat file.')],
    table: Annotated[Path, typer.Argument(help="A .csv or .parquet file, a Parquet folder, or GridFM's folder.")],
    rows: Annotated[int, typer.Option(min=1, help='Rows that pandapower.runpp solves; lightsim2grid solves all.')] = 50,
    seed: Annotated[int, typer.Option(help='Of the draw of those rows.')] = 0,
    out: Annotated[Path | None, typer.Option(help='JSON file for the report.')] = None,
    power_unit: Annotated[str, typer.Option(help="Of the table: MW (and Mvar), or p.u. of the network's base.")] = 'MW',
    angle_unit: Annotated[str, typer.Option(help='Of the table: degree or radian.')] = 'degree',
    sign: Annotated[str, typer.Option(help="Of buses' injections: generation is positive, or load.")] = 'generation',
) -> None:
    """Solve a table's operating points anew with other programs; exit status 1 if a row that was checked disagrees."""
    import json

    from sdv_constrained_diffusion.errors import ConstrainedDiffusionError
    from sdv_constrained_diffusion.power.grid import Grid
    from sdv_constrained_diffusion.power.networks import read_network
    from sdv_constrained_diffusion.power.table_files import read_table
    from sdv_constrained_diffusion.power.validation import validation_report

    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        _fail(f'validate needs --out to be a file in an existing folder, but got {str(out)!r}. Make the folder first.')
    units = {'power': power_unit, 'angle': angle_unit, 'sign': sign}
    try:
        network = read_network(net)
        rows_read = read_table(table, Grid.from_pandapower(network))
        report = validation_report(network, rows_read, rows, seed, units=units)
    except ConstrainedDiffusionError as error:
        _fail(str(error))
    typer.echo(str(report))
    if out is not None:
        try:
            out.write_text(json.dumps(report.to_dict(), indent=2, default=str))
        except OSError as error:
            _fail(f'validate needs a file that it can write, but --out is none: {error}. Pass another one.')
    raise typer.Exit(0 if report.agrees else 1)


@app.command()
def scenarios(
    net: Annotated[
        str, typer.Argument(help='A name of pandapower.networks, or a .json (pandapower), .m or .mat (MATPOWER) file.')
    ],
    rows: Annotated[int, typer.Option(min=1, help='Solved operating points.')],
    out: Annotated[Path, typer.Option(help='Folder, new or of a run that was interrupted.')],
    loads: Annotated[str, typer.Option(help='Distribution of demand: uniform, normal or profile.')] = 'uniform',
    low: Annotated[float | None, typer.Option(help='Uniform: least share of the nominal load (0.8).')] = None,
    high: Annotated[float | None, typer.Option(help='Uniform: largest share (1.2).')] = None,
    std: Annotated[float | None, typer.Option(help='Normal: standard deviation of the share (0.1).')] = None,
    correlation: Annotated[float | None, typer.Option(help='Normal: between any two loads (0.5).')] = None,
    power_factor: Annotated[str | None, typer.Option(help='Uniform, normal: independent or constant.')] = None,
    profile: Annotated[Path | None, typer.Option(help='Profile: .csv or .parquet, a column per load.')] = None,
    order: Annotated[str | None, typer.Option(help='Profile: hours are drawn, or run through in_turn.')] = None,
    infeed: Annotated[str | None, typer.Option(help='Static generators: uniform or profile.')] = None,
    infeed_low: Annotated[float | None, typer.Option(help='Uniform infeed: least share of p_mw (0).')] = None,
    infeed_high: Annotated[float | None, typer.Option(help='Uniform infeed: largest share (1).')] = None,
    infeed_profile: Annotated[Path | None, typer.Option(help='Profile infeed: a column such as sgen_0 each.')] = None,
    infeed_order: Annotated[str | None, typer.Option(help='Profile infeed: drawn or in_turn.')] = None,
    cost_spread: Annotated[float | None, typer.Option(help='Largest change of each cost, as a share.')] = None,
    outages: Annotated[float | None, typer.Option(help='Share of rows with a line or transformer out.')] = None,
    solver: Annotated[str, typer.Option(help='opf (AC optimal power flow) or pf (plain power flow).')] = 'opf',
    flow_limit: Annotated[str, typer.Option(help='Opf: ratings limit apparent power or current.')] = 'apparent',
    quantities: Annotated[str, typer.Option(help='wide (buses) or apart (loads, generators, voltages).')] = 'wide',
    flows: Annotated[bool, typer.Option(help='Columns of branch flows, too.')] = False,
    seed: Annotated[int, typer.Option(help='Of all draws.')] = 0,
    workers: Annotated[int, typer.Option(min=1, help='Processes.')] = 1,
) -> None:
    """Solve random operating points of a network and write them as Parquet; run again to go on after a kill."""
    from sdv_constrained_diffusion.errors import ConstrainedDiffusionError

    try:
        from sdv_constrained_diffusion.power.networks import read_network
        from sdv_constrained_diffusion.power.scenarios import generate_to
        from sdv_constrained_diffusion.power.scenarios.named_models import models, quantities_of

        what = models(
            loads={'name': loads, 'low': low, 'high': high, 'std': std, 'correlation': correlation}
            | {'power_factor': power_factor, 'table': profile, 'order': order},
            infeed={'name': infeed, 'low': infeed_low, 'high': infeed_high}
            | {'table': infeed_profile, 'order': infeed_order},
            cost_spread=cost_spread,
            outages=outages,
        )
        how: dict[str, Any] = {
            'solver': solver,
            'flow_limit': flow_limit,
            'quantities': quantities_of(quantities, flows),
        }
        metadata = generate_to(out, read_network(net), rows, seed, workers=workers, **what, **how)
    except ConstrainedDiffusionError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f'scenarios needs a folder that it can write to, but --out is {str(out)!r}: {error}. Pass another one.')
    typer.echo(f'{metadata["num_rows"]} rows of {metadata["draws"]} draws in {out}')
    for reason, count in metadata['unsolved_reasons'].items():
        typer.echo(f'{count} draws without a solution: {reason}')


@constraints.command('list')
def list_constraints() -> None:
    """Name, origin and version of each constraint that a distribution registers, and what is wrong with it."""
    from sdv_constrained_diffusion.constraints.registry import listing

    for each in listing().itertuples():
        typer.echo(
            f'{each.name}\t{each.origin} {each.version}' + (f'\tskipped: {each.problem}' if each.problem else '')
        )


def _fail(message: str) -> NoReturn:
    """Ends the command with exit status 1."""
    typer.echo(f'error: {message}', err=True)
    raise typer.Exit(1)


if __name__ == '__main__':
    app()
