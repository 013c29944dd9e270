"""The command line: `constrained-diffusion`. Heavy libraries load when a command runs."""

from pathlib import Path
from typing import Annotated

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
        typer.echo(f'error: {error}', err=True)
        raise typer.Exit(1) from error
    for result in results:
        typer.echo(str(result))
    typer.echo(f'report: {out / "report.html"}')


@constraints.command('list')
def list_constraints() -> None:
    """Name, origin and version of each constraint that a distribution registers, and what is wrong with it."""
    from sdv_constrained_diffusion.constraints.registry import listing

    for each in listing().itertuples():
        typer.echo(
            f'{each.name}\t{each.origin} {each.version}' + (f'\tskipped: {each.problem}' if each.problem else '')
        )


if __name__ == '__main__':
    app()
