"""Codecs of one kind of column each, by hand."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sdv_constrained_diffusion.tabular.columns import AffineCodec, ConstantCodec, DiscreteCodec


@given(values=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=4))
def test_constant_codec(values):
    codec = ConstantCodec.fit(np.array([values] * 3))
    table = torch.tensor([values], dtype=torch.float64)
    assert codec.num_numbers == 0
    assert codec.frequencies == ()
    assert codec.states(table).shape == (1, 0)
    assert torch.equal(codec.decode(codec.encode(table)), table)
    assert codec.point_masses(table).all()
    assert codec.select([0]).values.tolist() == values[:1]


def test_a_column_that_is_missing_throughout():
    codec = ConstantCodec.fit(np.full((3, 2), np.nan))
    assert codec.decode(torch.zeros(2, 0).double()).isnan().all()


@given(
    values=hnp.arrays(float, (7, 2), elements=st.floats(-1e9, 1e9), unique=True),
    scale=st.sampled_from([1e-30, 1, 1e30]),
)
def test_affine_codec_maps_the_range_to_minus_one_and_one(values, scale):
    values = values * scale
    codec, table = AffineCodec.fit(values), torch.from_numpy(values)
    features = codec.encode(table)
    low, high = values.min(0), values.max(0)
    # Shift and scale are halves of sums: some eps of the values, over the range.
    rounding = 1e-15 * np.abs(values).max(0) / (high - low)
    expected = 2 * (values - low) / (high - low) - 1
    assert (np.abs(features.numpy() - expected) <= 8 * rounding + 1e-14).all()
    assert (np.abs(codec.decode(features).numpy() - values) <= 1e-15 * np.abs(values).max(0) * 8).all()
    assert not codec.point_masses(table).any()
    assert torch.equal(codec.select([1]).encode(table[:, 1:]), features[:, 1:])


def test_affine_codec_survives_the_largest_numbers():
    codec = AffineCodec.fit(np.array([[-1.5e308], [1.5e308]]))
    assert codec.encode(torch.tensor([[-1.5e308], [0], [1.5e308]], dtype=torch.float64)).tolist() == [
        [-1.0],
        [0.0],
        [1.0],
    ]


@given(codes=hnp.arrays(np.int64, (20, 2), elements=st.integers(0, 4)))
def test_discrete_codec_is_the_codes_themselves(codes):
    codec, table = DiscreteCodec.fit(codes.astype(float)), torch.from_numpy(codes).double()
    for column, shares in zip(codes.T, codec.frequencies, strict=True):
        assert shares.tolist() == [float(np.mean(column == level)) for level in range(column.max() + 1)]
    assert codec.encode(table).shape == (20, 0)
    assert torch.equal(codec.states(table), torch.from_numpy(codes))
    assert torch.equal(codec.decode(codec.encode(table), codec.states(table)), table)
    assert codec.point_masses(table).all()
    (chosen,) = codec.select([1]).frequencies
    assert torch.equal(chosen, codec.frequencies[1])
