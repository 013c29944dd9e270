"""Tables that mix kinds of columns: round trips, parts of the whole, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdv_constrained_diffusion.errors import DataError
from sdv_constrained_diffusion.tabular.columns import AffineCodec, ConstantCodec
from sdv_constrained_diffusion.tabular.encoder import SCALINGS, TableEncoder

CONSTANT = ('zero', 'big')


def mixed_table(num_rows=400):
    """Two constant columns between four that vary; 'vm' has a mass at its limit, 'on' is binary."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            'p': rng.normal(100, 20, num_rows),
            'zero': 0.0,
            'vm': rng.normal(1, 0.05, num_rows).clip(max=1.05),
            'on': np.arange(num_rows) % 2,
            'big': 1e12,
            'q': rng.standard_cauchy(num_rows),
        }
    )


TABLE = mixed_table()
VALUES = torch.tensor(TABLE.to_numpy(dtype=float))
SCALES = VALUES.abs().max(0).values
ENCODERS = {scaling: TableEncoder.fit(TABLE, scaling) for scaling in SCALINGS}
some_columns = st.lists(st.sampled_from(list(TABLE.columns)), min_size=1, unique=True)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_rows(encoder, num_rows=50, seed=0):
    return 2 * torch.randn(num_rows, encoder.num_features, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize('scaling', SCALINGS)
@pytest.mark.parametrize('draw', [None, generator()], ids=['medians', 'drawn'])
def test_round_trip(scaling, draw):
    encoder = ENCODERS[scaling]
    back = encoder.decode(encoder.encode(VALUES, draw))
    assert encoder.columns == tuple(TABLE.columns)
    # Some eps of a column's largest value, by which it is scaled and back; resolution of a mass is 1e-6 deviations
    # of 'vm', and its only values that near to a limit are at it.
    torch.testing.assert_close(back / SCALES.clamp(min=1), VALUES / SCALES.clamp(min=1), rtol=0, atol=1e-14)
    if scaling == 'quantile':
        for exact in ('vm', 'on', *CONSTANT):
            place = TABLE.columns.get_loc(exact)
            masses = encoder.point_masses(VALUES)[:, place]
            assert torch.equal(back[masses, place], VALUES[masses, place])


def test_places_inside_a_mass_are_drawn():
    """The feature of the binary column is one of two numbers without a generator, and all different with one."""
    encoder = ENCODERS['quantile']
    assert len(encoder.encode(VALUES)[:, 2].unique()) == 2
    assert len(encoder.encode(VALUES, generator())[:, 2].unique()) == 400
    assert torch.equal(encoder.encode(VALUES, generator()), encoder.encode(VALUES, generator()))


@pytest.mark.parametrize('scaling', SCALINGS)
def test_constant_columns_take_no_feature(scaling):
    encoder = ENCODERS[scaling]
    assert encoder.num_features == 4
    assert encoder.encode(VALUES).shape == (400, 4)
    decoded = encoder.decode(random_rows(encoder))
    for name in CONSTANT:
        place = TABLE.columns.get_loc(name)
        assert torch.equal(decoded[:, place], VALUES[:50, place])


@pytest.mark.parametrize(('relative_spread', 'num_features'), [(0.0, 0), (5e-10, 0), (5e-9, 1)])
def test_a_column_is_constant_when_its_range_is_rounding(relative_spread, num_features):
    """Up to 1e-9 of its largest value, the digits that a solver leaves."""
    data = pd.DataFrame({'x': 50 * (1 + relative_spread * np.linspace(0, 1, 5))})
    assert TableEncoder.fit(data).num_features == num_features


def test_a_table_of_constants():
    encoder = TableEncoder.fit(pd.DataFrame({'a': [2.0, 2.0], 'b': [3, 3]}))
    values = torch.tensor([[2.0, 3.0]]).double()
    assert encoder.encode(values).shape == (1, 0)
    assert torch.equal(encoder.decode(encoder.encode(values)), values)
    assert encoder.point_masses(values).all()
    assert encoder.select(['b']).decode(torch.zeros(2, 0).double()).tolist() == [[3.0], [3.0]]


def test_minmax_maps_to_minus_one_and_one():
    features = ENCODERS['minmax'].encode(VALUES)
    ends = torch.ones(4, dtype=torch.float64)
    # Shift and scale are halves of sums: an eps of the values over the range, for 'vm' 1 / 0.3.
    torch.testing.assert_close(features.min(0).values, -ends, rtol=0, atol=1e-14)
    torch.testing.assert_close(features.max(0).values, ends, rtol=0, atol=1e-14)
    p = VALUES[:, 0]
    expected = 2 * (p - p.min()) / (p.max() - p.min()) - 1
    torch.testing.assert_close(features[:, 0], expected, rtol=0, atol=1e-14)


def test_minmax_survives_the_largest_numbers():
    codec = AffineCodec.fit(np.array([[-1.5e308], [1.5e308]]))
    assert codec.encode(torch.tensor([[-1.5e308], [0], [1.5e308]], dtype=torch.float64)).tolist() == [
        [-1.0],
        [0.0],
        [1.0],
    ]


def test_point_masses_of_a_mixed_table():
    """Constants, the limit of 'vm' and both values of 'on'; none with an affine scaling but the constants."""
    expected = torch.tensor(
        np.stack([TABLE.p.isna(), TABLE.zero == 0, TABLE.vm == 1.05, TABLE.on >= 0, TABLE.big > 0, TABLE.q.isna()], 1)
    )
    assert torch.equal(ENCODERS['quantile'].point_masses(VALUES), expected)
    expected[:, [2, 3]] = False
    assert torch.equal(ENCODERS['minmax'].point_masses(VALUES), expected)


@pytest.mark.parametrize('scaling', SCALINGS)
@settings(deadline=None, max_examples=40)
@given(columns=some_columns)
def test_select_is_the_whole_restricted(scaling, columns):
    encoder = ENCODERS[scaling]
    part = encoder.select(columns)
    places = [TABLE.columns.get_loc(name) for name in columns]
    rows = random_rows(encoder)
    assert part.columns == tuple(columns)
    assert part.num_features == encoder.num_features
    assert torch.equal(part.decode(rows), encoder.decode(rows)[:, places])
    assert torch.equal(part.point_masses(VALUES[:, places]), encoder.point_masses(VALUES)[:, places])


@pytest.mark.parametrize('scaling', SCALINGS)
@settings(deadline=None, max_examples=40)
@given(columns=some_columns, seed=st.integers(0, 1000))
def test_replace_by_a_part_is_replace_by_the_whole(scaling, columns, seed):
    """Where asked, and only there, the decoded row takes the new value; features elsewhere keep their bits."""
    encoder = ENCODERS[scaling]
    part = encoder.select(columns)
    places = [TABLE.columns.get_loc(name) for name in columns]
    rows = random_rows(encoder, 400, seed)
    before = rows.clone()
    where = torch.zeros(400, 6, dtype=torch.bool)
    where[:, places] = torch.rand(400, len(places), generator=generator(seed)) < 0.5
    replaced = encoder.replace(rows, VALUES, where)
    assert torch.equal(rows, before)
    assert torch.equal(part.replace(rows, VALUES[:, places], where[:, places]), replaced)
    expected = torch.where(where, VALUES, encoder.decode(rows))
    scales = SCALES.clamp(min=1)
    torch.testing.assert_close(encoder.decode(replaced) / scales, expected / scales, rtol=0, atol=1e-14)  # some eps
    varied = where[:, [0, 2, 3, 5]]  # the columns that own the four features, in order
    assert torch.equal(replaced[~varied], rows[~varied])


@pytest.mark.parametrize('scaling', SCALINGS)
def test_derivative_of_decode(scaling):
    """Autograd against central differences, in every feature; features reach no column but their own."""
    encoder = ENCODERS[scaling]
    row = random_rows(encoder, 1, seed=3) / 4
    jacobian = torch.autograd.functional.jacobian(lambda x: encoder.decode(x[None])[0], row[0])
    step = 1e-6
    for feature in range(4):
        move = torch.zeros_like(row)
        move[0, feature] = step
        difference = (encoder.decode(row + move) - encoder.decode(row - move))[0] / (2 * step)
        # Linear between knots, so exact up to eps of the values, 2e-14 for 'p', over the step.
        torch.testing.assert_close(jacobian[:, feature], difference, rtol=1e-6, atol=1e-7)
    own = torch.zeros(6, 4, dtype=torch.bool)
    own[[0, 2, 3, 5], [0, 1, 2, 3]] = True
    assert (jacobian[~own] == 0).all()
    assert (jacobian[[0, 5], [0, 3]] > 0).all()


@pytest.mark.parametrize('scaling', SCALINGS)
def test_rows_never_meet(scaling):
    encoder = ENCODERS[scaling]
    rows, values, where = random_rows(encoder, 20), VALUES[:20], torch.rand(20, 6, generator=generator()) < 0.5
    assert torch.equal(encoder.encode(values), torch.cat([encoder.encode(v[None]) for v in values]))
    assert torch.equal(encoder.decode(rows), torch.cat([encoder.decode(row[None]) for row in rows]))
    alone = [encoder.replace(*(x[None] for x in row)) for row in zip(rows, values, where, strict=True)]
    assert torch.equal(encoder.replace(rows, values, where), torch.cat(alone))


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, None])
def test_refuses_what_is_not_finite(bad):
    data = pd.DataFrame({'good': [1.0, 2.0, 3.0], 'vm_pu': [1.0, bad, 2.0]}, index=['r1', 'r2', 'r3'])
    with pytest.raises(DataError, match=r"'vm_pu'.*row r2"):
        TableEncoder.fit(data)


@pytest.mark.parametrize(
    'values', [['1.0', 'off', '2.0'], pd.Categorical(['u', 'off', 'u']), pd.array(['u', 'off', 'u'], dtype='string')]
)
def test_refuses_text(values):
    with pytest.raises(DataError, match="'state'"):
        TableEncoder.fit(pd.DataFrame({'good': [1.0, 2.0, 3.0], 'state': values}))


def test_a_missing_integer_is_named():
    with pytest.raises(DataError, match=r"'n'.*row 1"):
        TableEncoder.fit(pd.DataFrame({'n': pd.array([1, None, 3], dtype='Int64')}))


@pytest.mark.parametrize('dtype', ['int8', 'uint16', 'float32', 'bool', 'Int64', 'Float64', 'boolean'])
def test_takes_every_dtype_of_numbers(dtype):
    data = pd.DataFrame({'n': pd.Series([0, 1, 1, 0, 1]).astype(dtype)})
    encoder = TableEncoder.fit(data)
    values = torch.tensor([[0.0], [1], [1], [0], [1]]).double()
    assert torch.equal(encoder.decode(encoder.encode(values)), values)


@given(values=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=4))
def test_constant_codec(values):
    codec = ConstantCodec.fit(np.array([values] * 3))
    table = torch.tensor([values], dtype=torch.float64)
    assert torch.equal(codec.decode(codec.encode(table)), table)
    assert codec.point_masses(table).all()
    assert codec.select([0]).values.tolist() == values[:1]
