"""Finished rows: refused, released from limits, moments and labels as they were; and what is recorded of them."""

import numpy as np
import pandas as pd
import pytest
import torch

from sdv_constrained_diffusion import Bounds, ConditionalOn, Formula, Ordered, SumTo
from sdv_constrained_diffusion.guidance.finishing import Finisher, observed_steps
from sdv_constrained_diffusion.guidance.projection import ResultCode
from sdv_constrained_diffusion.guidance.record import FinishingRecord

CONVERGED, REFUSED = int(ResultCode.CONVERGED), int(ResultCode.REFUSED)


def trips(num_rows=300, seed=0):
    rng = np.random.default_rng(seed)
    start = pd.Timestamp('2024-01-01') + pd.to_timedelta(rng.integers(0, 300, num_rows), 'D')
    end = start + pd.to_timedelta(rng.integers(0, 30, num_rows), 'D')
    kind = rng.choice(['road', 'rail'], num_rows)
    km = rng.uniform(10, 90, num_rows).round(1)
    cost = np.where(kind == 'road', 0.5 * km, 0.25 * km)
    return pd.DataFrame({'start': start, 'end': end, 'kind': kind, 'km': km, 'cost': cost, 'note': 'x'})


def test_rows_come_back_in_their_own_kinds_of_columns():
    data = trips()
    laws = [
        Ordered('start', 'end'),
        ConditionalOn('kind', 'road', Formula('cost == 0.5 * km')),
        ConditionalOn('kind', 'rail', Formula('cost == 0.25 * km')),
    ]
    finisher = Finisher.fit(laws, data)
    assert finisher.moving == ['start', 'end', 'km', 'cost']
    rng = np.random.default_rng(1)
    off = data.assign(
        end=data['end'] - pd.to_timedelta(rng.integers(0, 40, 300), 'D'), cost=data['cost'] + rng.normal(size=300)
    )
    finished, before, projected = finisher.finish(off)
    assert (projected.codes == CONVERGED).all()
    assert (finished['start'] <= finished['end']).all()
    assert (finished[['start', 'end']] == finished[['start', 'end']].apply(lambda c: c.dt.floor('D'))).all().all()
    factor = np.where(finished['kind'] == 'road', 0.5, 0.25)
    # The laws' own tolerance.
    assert (finished['cost'] - factor * finished['km']).abs().max() <= 1e-6
    pd.testing.assert_series_equal(finished['kind'], data['kind'])
    pd.testing.assert_series_equal(finished['note'], data['note'])
    assert before.shape == (300, 5)


def test_moments_that_do_not_move_keep_their_nanoseconds():
    data = trips()
    moments = data.assign(start=data['start'] + pd.Timedelta(nanoseconds=7))
    finished, _, _ = Finisher.fit([Ordered('start', 'end', tolerance=1.0)], moments).finish(moments)
    pd.testing.assert_series_equal(finished['start'], moments['start'])


def test_rows_that_break_an_inequality_which_cuts_through_the_data_are_refused_and_not_moved_to_it():
    data = trips()
    finisher = Finisher.fit([Bounds('km', lower=60.0)], data)
    finished, _, projected = finisher.finish(data)
    assert (projected.codes == REFUSED).tolist() == (data['km'] < 60).tolist()
    pd.testing.assert_series_equal(finished['km'], data.loc[data['km'] >= 60, 'km'])


def test_an_inequality_that_the_data_obey_moves_the_few_that_break_it():
    data = trips()
    finisher = Finisher.fit([Bounds('km', lower=10.0)], data)
    low = data.assign(km=data['km'].where(data.index > 5, 9.0))
    finished, _, projected = finisher.finish(low)
    assert (projected.codes == CONVERGED).all()
    assert (finished['km'].head(6) == 10.0).all()


def test_pinned_values_move_only_in_rows_that_cannot_obey_otherwise():
    rng = np.random.default_rng(0)
    data = pd.DataFrame(
        {'a': rng.integers(0, 3, 100) * 1.0, 'b': rng.normal(size=100), 'c': rng.integers(0, 3, 100) * 1.0}
    )
    data['d'] = -data['c']
    finisher = Finisher.fit([Formula('a + b == 1'), Formula('c + d == 0')], data.assign(b=1 - data['a']), {})
    rows = pd.DataFrame({'a': [2.0, 2.0], 'b': [0.0, 0.0], 'c': [1.0, 1.0], 'd': [-1.0, 0.0]})
    pinned = torch.tensor([[True, False, True, True]]).expand(2, 4)
    finished, _, projected = finisher.finish(rows, pinned=pinned)
    assert (projected.codes == CONVERGED).all()
    # The first row gets there by moving b alone; in the second, c and d are both pinned and off.
    assert finished.loc[0].tolist() == pytest.approx([2.0, -1.0, 1.0, -1.0], abs=1e-8)
    assert finished.loc[1, 'c'] + finished.loc[1, 'd'] == pytest.approx(0, abs=1e-8)
    fixed = torch.tensor([False, False, True, True])
    _, _, projected = finisher.finish(rows, fixed)
    assert (projected.codes == CONVERGED).tolist() == [True, False]


def test_steps_are_observed_by_column_and_labels_have_none():
    found = observed_steps(trips())
    assert found == {'start': 86400.0, 'end': 86400.0, 'km': 0.1, 'cost': pytest.approx(0.001)} | {
        key: found[key] for key in ('cost',)
    }


def test_the_record_tells_moves_and_broken_rows_of_each_constraint():
    data = trips()
    laws = [SumTo(['km'], 'cost', tolerance=1e-6), Bounds('km', lower=60.0)]
    finisher = Finisher.fit(laws, data.assign(cost=data['km']), {})
    rows = data.head(40).assign(cost=lambda each: each['km'] + 1)
    record = FinishingRecord()
    _, before, projected = finisher.finish(rows)
    record.add(finisher.chord, finisher.plan.redrawn, before, projected)
    found = record.by_constraint(2)
    refused = int((rows['km'] < 60).sum())
    assert refused > 0
    # The sum would have been met: only the bound is to blame.
    assert found['num_redrawn'].tolist() == [0, refused]
    assert record.failures() == {'REFUSED': refused}
    # Both columns move half of the gap in standard deviations: their scales are equal.
    assert found['displacement_median'][0] == pytest.approx(0.5 / data['km'].std(), rel=1e-6)
    assert record.num_rows == 40
    assert record.nearest_miss.startswith("'60 <= km' by ")
