"""Parts of a row against a plain loop over its blocks."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdv_constrained_diffusion._layout import Layout

layouts = st.builds(
    lambda num_numbers, sizes: Layout(num_numbers, [torch.full((size,), 1 / size).double() for size in sizes]),
    st.integers(0, 3),
    st.lists(st.sampled_from([1, 2, 2, 3, 7]), max_size=5),
)


def bounds(layout):
    """First and last feature of each block, counted from the first level."""
    ends = list(itertools.accumulate(map(len, layout.frequencies), initial=0))
    return list(itertools.pairwise(ends))


def draw_codes(layout, num_rows, seed):
    """Random levels, some of them hidden."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([len(each) for each in layout.frequencies])
    place = torch.rand(num_rows, layout.num_blocks, generator=generator)
    codes = (place * sizes).long()
    return codes.masked_fill(torch.rand(codes.shape, generator=generator) < 0.3, -1)


def random_rows(layout, num_rows=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, layout.num_features, generator=generator, dtype=torch.float64)


@given(layout=layouts, num_rows=st.integers(0, 4))
def test_numbers_come_first_then_the_levels(layout, num_rows):
    rows = random_rows(layout, num_rows)
    numbers, levels = layout.split(rows)
    assert layout.num_blocks == len(layout.frequencies)
    assert layout.num_features == layout.num_numbers + sum(map(len, layout.frequencies))
    assert torch.equal(numbers, layout.numbers(rows))
    assert torch.equal(levels, layout.levels(rows))
    assert numbers.shape == (num_rows, layout.num_numbers)
    assert torch.equal(torch.cat([numbers, levels], dim=1), rows)


@settings(deadline=None)
@given(layout=layouts, num_rows=st.integers(0, 4), seed=st.integers(0, 100))
def test_one_hot_codes_and_hidden_are_inverse(layout, num_rows, seed):
    codes = draw_codes(layout, num_rows, seed)
    levels = layout.one_hot(codes)
    rows = torch.cat([random_rows(layout, num_rows)[:, : layout.num_numbers], levels], dim=1)
    assert levels.dtype == torch.float64
    for block, (first, last) in enumerate(bounds(layout)):
        for row in range(num_rows):
            expected = [float(level == codes[row, block]) for level in range(last - first)]
            assert levels[row, first:last].tolist() == expected
    assert torch.equal(layout.hidden(rows), codes < 0)
    assert torch.equal(layout.codes(rows)[codes >= 0], codes[codes >= 0])


@settings(deadline=None)
@given(layout=layouts, num_rows=st.integers(0, 4), seed=st.integers(0, 100))
def test_blocks_are_handled_as_in_a_loop(layout, num_rows, seed):
    rows = random_rows(layout, num_rows, seed)
    levels = layout.levels(rows)
    blocks = [levels[:, first:last] for first, last in bounds(layout)]
    none = levels.new_zeros(num_rows, 0)
    # Shapes and bits: a view's sums run over the same numbers in the same order as a block's.
    sums = [block.sum(1, keepdim=True) for block in blocks]
    assert torch.equal(layout.per_block(levels, lambda view: view.sum(2)), torch.cat([none, *sums], dim=1))
    # In another order, so up to rounding: seven numbers of order 1.
    torch.testing.assert_close(layout.sums(levels), torch.cat([none, *sums], dim=1), rtol=0, atol=1e-14)
    below = [block - block.amax(1, keepdim=True) for block in blocks]
    assert torch.equal(layout.less_largest(levels), torch.cat([none, *below], dim=1))
    spread = [sums[block].expand(-1, last - first) for block, (first, last) in enumerate(bounds(layout))]
    assert torch.equal(layout.spread(torch.cat([none, *sums], dim=1)), torch.cat([none, *spread], dim=1))
    highest = [block.argmax(1, keepdim=True) for block in blocks]
    assert torch.equal(layout.codes(rows), torch.cat([none.long(), *highest], dim=1))


@given(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=8))
def test_neighbours_of_one_size_share_a_view(sizes):
    """One operation per run of equal sizes, not one per column: this is what makes 300 columns affordable."""
    layout = Layout(0, [torch.full((size,), 1 / size) for size in sizes])
    runs = [(size, len(list(run))) for size, run in itertools.groupby(sizes)]
    views = layout.views(random_rows(layout, 2))
    assert [tuple(view.shape) for view in views] == [(2, number, size) for size, number in runs]


@settings(deadline=None)
@given(layout=layouts, num_rows=st.integers(0, 4), seed=st.integers(0, 100), share=st.sampled_from([0.0, 0.4]))
def test_a_place_in_the_distribution_function_is_a_level(layout, num_rows, seed, share):
    """By a loop, with blocks that sum to anything; levels without weight, where others have some, are never drawn."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(num_rows, layout.num_features - layout.num_numbers, generator=generator).double()
    weights = torch.where(weights < share, 0.0, weights)
    places = torch.rand(num_rows, layout.num_blocks, generator=generator).double()
    places = torch.where(places > 0.8, 1 - 2**-53, places)  # the last place there is
    codes = layout.drawn(weights, places)
    for block, (first, last) in enumerate(bounds(layout)):
        for row in range(num_rows):
            own = weights[row, first:last]
            if own.sum() > 0:
                level = int(torch.searchsorted(own.cumsum(0), places[row, block] * own.sum(), right=True))
                assert codes[row, block] == level
                assert own[level] > 0
