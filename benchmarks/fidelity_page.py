"""The page `docs/fidelity.md` and its plot, made of the lines that `fidelity.py` left.

    python benchmarks/fidelity_page.py [JSON LINES ...]

Lines are added to those that the page stands on already, `docs/fidelity.jsonl`; of runs that were repeated the newest
counts.
"""

import sys
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from contestant import METHODS
from record import RESULTS
from tasks import TASKS

DOCS = Path(__file__).parents[1] / 'docs'
REFERENCES = ('floor', 'bootstrap', 'shuffled')
OURS = ('default', 'default without laws', 'paper')
KEYS = ['task', 'method', 'budget_cpu_s', 'seed']
COLUMNS = {
    'method': ('method', '{}'),
    'budget_cpu_s': ('budget, s', '{:.0f}'),
    'c2st_auc': ('C2ST', '{:.3f}'),
    'c2st_whitened_auc': ('whitened', '{:.3f}'),
    'shapes_error_percent': ('Shapes, %', '{:.2f}'),
    'trends_error_percent': ('Trends, %', '{:.2f}'),
    'w1_ratio': ('W1', '{:.3f}'),
    'usefulness': ('TSTR', '{:.3f}'),
    'log_density_shift': ('log density', '{:+.2f}'),
    'dcr_share': ('DCR', '{:.3f}'),
    'nndr_share': ('NNDR', '{:.3f}'),
    'copied_share': ('copies', '{:.3f}'),
    'fit_cpu_s': ('fit, s', '{:.0f}'),
    'rows_per_cpu_s': ('rows/s', '{:,.0f}'),
    'peak_mb': ('MB', '{:.0f}'),
}
"""Figures of a run: heading and format."""

LINES = DOCS / 'fidelity.jsonl'

SCRIPT = '_static/plotly.min.js'
"""Where `docs/conf.py` puts plotly's, seen from the page."""

INTRODUCTION = """# Fidelity per CPU second

Every method learns half of a table in a process of its own on one thread, with a budget of CPU seconds of training, and
is judged by the other half. `benchmarks/fidelity.py` makes the figures, `benchmarks/README.md` explains them. Ours are
the rows as delivered: on the power tables they obey the power flow and the limits, which the others do not know of.
On Adult, whole or a thousand rows of it, and on the toys of a few columns *default* holds rows out, and stops before
its budget once the loss on them does not fall any more.

- **C2ST**: AUC of boosted trees that tell synthetic rows from held-out ones, 0.5 is perfect; **whitened** on
  principal components of the numbers.
- **Shapes**, **Trends** over all pairs: 100 minus SDMetrics' scores. **W1**: joint Wasserstein distance over that of
  the training half. **TSTR**: AUC (labels) or R² (numbers) on real rows of trees that learned one column from
  synthetic ones.
- **log density**: mean under the true law less that of real rows. **DCR**: share of rows nearer to a training row
  than to a held-out one, 0.5 where nothing of its own is learned. **NNDR**: share of rows as much nearer to one
  training row than to the next as 0.05 of the held-out rows are; more where single rows are learned by heart, less
  where rows are far from all. Older lines lack it.
  **copies**: share of rows that equal a training row.

Three references are no methods. *floor*: the training half judged as if it were synthetic. *bootstrap*: as many rows
drawn from it independently, which is how rows of a synthesizer scatter; the repeats among them are what C2ST sees.
*shuffled*: its columns, each in an order of its own; their share nearer to the training half is that of rows
that know the columns alone. Lines of several seeds are means (24 buses, *default* after 600 s: seeds 1 and 3).

```{raw} html
:file: fidelity_plot.html
```

C2ST after the shortest and the longest budget, beside that of the other method that came closest after any:
"""


def newest(paths: list[Path]) -> pd.DataFrame:
    """One line per run, those of references without budget; the newest of those that were repeated."""
    lines = pd.concat([pd.read_json(path, lines=True) for path in paths if path.exists()]).sort_values('when')
    lines = lines.drop_duplicates(KEYS, keep='last')
    order = {task: place for place, task in enumerate(TASKS)}
    return lines.sort_values('task', key=lambda tasks: tasks.map(order), kind='stable').reset_index(drop=True)


def summary(lines: pd.DataFrame) -> str:
    """Per task the C2ST of `default` after its shortest and its longest budget, and of the closest other method."""
    rows = ['| task | default | default | closest other method | floor |', '|---|---|---|---|---|']
    for task, own in lines.groupby('task', sort=False):
        means = own.groupby(['method', 'budget_cpu_s'], dropna=False)['c2st_auc'].mean().dropna().reset_index()
        ours = means[means['method'] == 'default'].sort_values('budget_cpu_s')
        others = means[~means['method'].isin((*OURS, *REFERENCES))]
        if ours.empty or others.empty:
            continue
        cells = [_after(ours.iloc[0]), _after(ours.iloc[-1]), _after(others.loc[others['c2st_auc'].idxmin()], True)]
        floor = means.loc[means['method'] == 'floor', 'c2st_auc'].mean()
        rows.append(f'| {task} | {" | ".join(cells)} | {floor:.3f} |')
    return '\n'.join(rows)


def _after(run: pd.Series, named: bool = False) -> str:
    """A run's C2ST and budget."""
    parts = [f'{run["c2st_auc"]:.3f}', *([run['method']] if named else [])]
    return ', '.join([*parts, *([] if pd.isna(run['budget_cpu_s']) else [f'{run["budget_cpu_s"]:.0f} s'])])


def table(lines: pd.DataFrame) -> str:
    """A task's runs as Markdown, means over seeds; methods that failed say so."""
    failed = lines[lines['error'].notna()] if 'error' in lines else lines[:0]
    figures = [name for name in COLUMNS if name in lines and name not in KEYS and lines[name].notna().any()]
    means = lines.groupby(['method', 'budget_cpu_s'], dropna=False)[figures].mean().dropna(how='all').reset_index()
    means['measured'] = ~means['method'].isin(REFERENCES)
    means = means.sort_values(['measured', 'budget_cpu_s', 'c2st_auc'], na_position='first')
    names = ['method', 'budget_cpu_s', *figures]
    rows = ['| ' + ' | '.join(COLUMNS[name][0] for name in names) + ' |', '|' + '---|' * len(names)]
    for _, each in means.iterrows():
        cells = ['' if pd.isna(each[name]) else COLUMNS[name][1].format(each[name]) for name in names]
        rows.append('| ' + ' | '.join(cells) + ' |')
    notes = [f'{each.method}, {each.budget_cpu_s:.0f} s: {each.error}' for each in failed.itertuples()]
    return '\n'.join([*rows, *([''] if notes else []), *dict.fromkeys(notes)])


def plot(lines: pd.DataFrame) -> go.Figure:
    """C2ST over CPU seconds of fitting, one panel per task, a line per method, the floor dashed."""
    tasks, methods = (
        list(lines['task'].unique()),
        sorted(set(lines['method']) - set(REFERENCES), key=list(METHODS).index),
    )
    columns = min(len(tasks), 3)
    figure = make_subplots(
        -(-len(tasks) // columns), columns, subplot_titles=tasks, horizontal_spacing=0.06, vertical_spacing=0.08
    )
    palette = [
        '#0072B2',
        '#D55E00',
        '#009E73',
        '#CC79A7',
        '#E69F00',
        '#56B4E9',
        '#999999',
        '#000000',
        '#8B4513',
        '#6A3D9A',
    ]
    colours = dict(zip(methods, palette * (1 + len(methods) // len(palette)), strict=False))
    for number, task in enumerate(tasks):
        place = {'row': number // columns + 1, 'col': number % columns + 1}
        own = lines[lines['task'] == task]
        for method in methods:
            runs = own[(own['method'] == method) & own['c2st_auc'].notna()]
            if len(runs):
                curve = runs.groupby('budget_cpu_s', dropna=False)[['fit_cpu_s', 'c2st_auc']].mean()
                shown = method not in {trace.name for trace in figure.data}
                figure.add_scatter(
                    x=curve['fit_cpu_s'],
                    y=curve['c2st_auc'],
                    name=method,
                    legendgroup=method,
                    showlegend=shown,
                    mode='lines+markers',
                    line={'color': colours[method], 'width': 4 if method == 'default' else 1.5},
                    **place,
                )
        floor = own.loc[own['method'] == 'floor', 'c2st_auc'].mean()
        figure.add_hline(y=floor, line={'dash': 'dash', 'color': '#444'}, **place)
        if number % columns == 0:
            figure.update_yaxes(title='C2ST AUC', **place)
        if number >= len(tasks) - columns:
            figure.update_xaxes(title='CPU seconds of fitting', **place)
    figure.update_xaxes(type='log', range=[-0.7, 3.2], dtick=1)
    figure.update_yaxes(range=[0.48, 1.02])
    return figure.update_layout(
        height=300 * -(-len(tasks) // columns), template='plotly_white', legend={'orientation': 'h', 'y': -0.1}
    )


def main() -> None:
    lines = newest([LINES, *map(Path, sys.argv[1:] or [RESULTS / 'fidelity.jsonl'])])
    lines.to_json(LINES, orient='records', lines=True)
    plot(lines).write_html(DOCS / 'fidelity_plot.html', include_plotlyjs=SCRIPT, full_html=False, div_id='fidelity')
    parts = [f'## {task}\n\n{table(own)}\n' for task, own in lines.groupby('task', sort=False)]
    (DOCS / 'fidelity.md').write_text('\n'.join([INTRODUCTION, summary(lines) + '\n', *parts]))


if __name__ == '__main__':
    main()
