"""Discrete columns: the formulas by hand, and a sampler that must draw the law of a small joint table."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from exact_denoisers import JointDenoiser, numbers
from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion.diffusion.masking import SMALLEST_SHARE, Masking
from sdv_constrained_diffusion.diffusion.sampler import AncestralSampler, Given, MultistepSampler
from sdv_constrained_diffusion.diffusion.schedule import EDMSchedule, linear_schedule

LAYOUT = Layout(2, [numbers(0.2, 0.8), numbers(0.5, 0.3, 0.2), numbers(0.1, 0.9), numbers(0.25, 0.25, 0.25, 0.25)])
"""Two numbers and four blocks, of which no two neighbours are of one size."""
SIZES = (2, 3, 2, 4)
MASKING = Masking(LAYOUT)

JOINT = numbers(
    [[0.20, 0.02], [0.05, 0.08], [0.00, 0.15]],
    [[0.01, 0.19], [0.10, 0.05], [0.15, 0.00]],
)
"""The joint law of three columns of 2, 3 and 2 levels, far from independent, with two cells that never occur."""

STEPS = 2
SAMPLERS = [
    pytest.param(MultistepSampler(STEPS + 1), EDMSchedule(), id='multistep'),
    pytest.param(AncestralSampler(STEPS + 1), EDMSchedule(), id='ancestral, signal unscaled'),
    pytest.param(AncestralSampler(STEPS), linear_schedule(100), id='ancestral'),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clean_rows(num_rows, seed=0):
    draw = generator(seed)
    codes = (torch.rand(num_rows, 4, generator=draw) * torch.tensor(SIZES)).long()
    normal = torch.randn(num_rows, 2, generator=draw, dtype=torch.float64)
    return torch.cat([normal, LAYOUT.one_hot(codes)], dim=1)


def with_hidden(rows, seed=0, share=0.5):
    """The rows with some blocks hidden, and which."""
    levels, hidden = MASKING.hide(rows, torch.full((len(rows),), share).double(), generator(seed))
    return torch.cat([LAYOUT.numbers(rows), levels], dim=1), hidden


def random_logits(num_rows, seed=0):
    return 3 * torch.randn(num_rows, sum(SIZES), generator=generator(seed), dtype=torch.float64)


def test_entropies_are_scipys():
    expected = [stats.entropy(frequencies) for frequencies in LAYOUT.frequencies]
    torch.testing.assert_close(MASKING.entropies, numbers(expected)[0], rtol=1e-14, atol=0)  # a few roundings
    # A column that hardly ever varies would otherwise outweigh all others: its unit is a hundredth of a nat.
    assert Masking(Layout(0, [numbers(1 - 1e-6, 1e-6)])).entropies.tolist() == [0.01]


def test_log_frequencies_are_finite():
    masking = Masking(Layout(3, [numbers(0.25, 0.75), numbers(1.0, 0.0)]))
    expected = [math.log(0.25), math.log(0.75), 0.0, math.log(SMALLEST_SHARE)]
    assert masking.log_frequencies().tolist() == pytest.approx(expected, rel=1e-14)
    assert Masking(Layout(3)).log_frequencies().shape == (0,)


@pytest.mark.parametrize('share', [0.0, 0.3, 0.9, 1.0])
def test_hide_hides_each_block_with_the_rows_share(share):
    num_rows = 20_000
    rows = clean_rows(num_rows)
    shares = torch.full((num_rows,), share).double()
    shares[: num_rows // 2] = 0.5
    levels, hidden = MASKING.hide(rows, shares, generator())
    spread = LAYOUT.spread(hidden)
    assert (levels[spread] == 0).all()
    assert torch.equal(levels[~spread], LAYOUT.levels(rows)[~spread])
    assert torch.equal(hidden, LAYOUT.hidden(torch.cat([LAYOUT.numbers(rows), levels], dim=1)))
    for half, wanted in ((hidden[: num_rows // 2], 0.5), (hidden[num_rows // 2 :], share)):
        spread_of_a_mean = math.sqrt(wanted * (1 - wanted) / len(half))
        assert ((half.double().mean(0) - wanted).abs() <= 5 * spread_of_a_mean).all()  # five standard errors
    # Blocks are hidden independently of each other: correlations of 10,000 draws, five standard errors.
    correlations = torch.corrcoef(hidden[: num_rows // 2].double().T) - torch.eye(4)
    assert correlations.abs().max() < 5 / math.sqrt(num_rows // 2)


@settings(deadline=None)
@given(num_rows=st.integers(0, 5), seed=st.integers(0, 1000))
def test_cross_entropy_is_torchs_in_units_of_the_entropy(num_rows, seed):
    rows, logits = clean_rows(num_rows, seed), random_logits(num_rows, seed)
    _, hidden = with_hidden(rows, seed)
    loss = MASKING.cross_entropy(logits, rows, hidden)
    codes, first = LAYOUT.codes(rows), 0
    for block, size in enumerate(SIZES):
        own = torch.nn.functional.cross_entropy(logits[:, first : first + size], codes[:, block], reduction='none')
        expected = torch.where(hidden[:, block], own / stats.entropy(LAYOUT.frequencies[block]), 0.0)
        torch.testing.assert_close(loss[:, block], expected, rtol=1e-12, atol=1e-12)  # a few roundings
        first += size


def test_frequencies_as_estimate_cost_one_in_every_column():
    """So that no column outweighs another: cross-entropy over entropy, in expectation over the column's own law."""
    codes = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
    rows = torch.cat([torch.zeros(len(codes), 2), LAYOUT.one_hot(codes)], dim=1)
    weights = functools.reduce(torch.mul, (f[codes[:, block]] for block, f in enumerate(LAYOUT.frequencies)))
    logits = MASKING.log_frequencies().expand(len(codes), -1)
    loss = MASKING.cross_entropy(logits, rows, torch.ones(len(codes), 4).bool())
    torch.testing.assert_close(weights @ loss, torch.ones(4).double(), rtol=1e-13, atol=0)  # a sum of 48 terms


@settings(deadline=None)
@given(num_rows=st.integers(0, 5), seed=st.integers(0, 1000))
def test_probabilities_are_a_softmax_where_hidden_and_the_level_elsewhere(num_rows, seed):
    rows, logits = clean_rows(num_rows, seed), random_logits(num_rows, seed)
    x_t, hidden = with_hidden(rows, seed)
    found = MASKING.probabilities(logits, x_t)
    first = 0
    for block, size in enumerate(SIZES):
        own = slice(first, first + size)
        expected = torch.where(hidden[:, [block]], logits[:, own].softmax(1), LAYOUT.levels(rows)[:, own])
        torch.testing.assert_close(found[:, own], expected, rtol=1e-14, atol=0)  # a few roundings
        first += size


def uniform(num_rows, num_blocks, seed=0):
    return torch.rand(num_rows, num_blocks, generator=generator(seed), dtype=torch.float64)


@settings(deadline=None)
@given(share=st.sampled_from([0.0, 0.4, 1.0]), seed=st.integers(0, 1000))
def test_revealed_blocks_never_change(share, seed):
    rows = clean_rows(30, seed)
    x_t, hidden = with_hidden(rows, seed)
    estimate = torch.cat([LAYOUT.numbers(rows), MASKING.probabilities(random_logits(30, seed), x_t)], dim=1)
    # What the estimate says of revealed blocks must not matter.
    estimate[:, 2:] = torch.where(LAYOUT.spread(hidden), estimate[:, 2:], random_logits(30, seed))
    chosen = torch.rand(30, 4, generator=generator(seed)) < share
    levels = MASKING.reveal(x_t, estimate, chosen, uniform(30, 4, seed))
    x_s = torch.cat([LAYOUT.numbers(rows), levels], dim=1)
    assert torch.equal(levels[~LAYOUT.spread(hidden)], LAYOUT.levels(rows)[~LAYOUT.spread(hidden)])
    now_hidden = LAYOUT.hidden(x_s)
    assert torch.equal(now_hidden, hidden & ~chosen)
    assert torch.equal(levels, LAYOUT.one_hot(LAYOUT.codes(x_s).masked_fill(now_hidden, -1)))
    if share == 0:
        assert torch.equal(x_s, x_t)


def test_reveal_draws_the_estimates_levels():
    """Chi-square test; seeded."""
    num_rows = 12_000
    estimate = torch.cat([numbers(0.0, 0.0), *LAYOUT.frequencies]).expand(num_rows, -1)
    everything = torch.ones(num_rows, 4, dtype=torch.bool)
    levels = MASKING.reveal(torch.zeros_like(estimate), estimate, everything, uniform(num_rows, 4))
    first = 0
    for size, expected in zip(SIZES, LAYOUT.frequencies, strict=True):
        counts = levels[:, first : first + size].sum(0)
        assert stats.chisquare(counts.numpy(), (num_rows * expected).numpy()).pvalue > 1e-3
        first += size


def test_the_turns_of_a_row_are_evenly_spaced_and_each_is_uniform():
    """Kolmogorov-Smirnov tests; seeded. Blocks that are not hidden take no place."""
    rows = clean_rows(5_000)
    rows[:, 2:] = torch.where(LAYOUT.spread(torch.tensor([[True, True, True, False]])), 0.0, rows[:, 2:])
    turns = MASKING.turns(rows, generator())[:, :3]
    # A third is no binary number.
    torch.testing.assert_close(turns.sort(1).values.diff(), numbers(1 / 3).expand(5_000, 2), rtol=0, atol=1e-15)
    for block in range(3):
        assert stats.kstest(turns[:, block].numpy(), 'uniform').pvalue > 1e-3
    orders, counts = turns.argsort(1).unique(dim=0, return_counts=True)
    assert len(orders) == 6
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@settings(deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 0.0, 1e-12, 0.1, 1 / 3, 1.0]), min_size=2, max_size=12).filter(any),
    total=st.sampled_from([1.0, 1 - 1e-15, 1 + 1e-15, 0.5]),
)
def test_no_level_of_probability_zero_is_drawn(weights, total):
    """At the ends of the places there are, 0 and the largest number below 1, and between them.

    A network's probabilities sum to 1 up to rounding only: that must not make room for a level beyond them.
    """
    shares = torch.tensor(weights, dtype=torch.float64)
    shares = total * shares / shares.sum()
    layout = Layout(0, [shares])
    places = torch.tensor([0.0, 1e-300, 0.25, 0.5, 1 - 2**-53], dtype=torch.float64)[:, None]
    estimate = shares.expand(len(places), -1)
    revealed = torch.ones(len(places), 1, dtype=torch.bool)
    levels = Masking(layout).reveal(torch.zeros_like(estimate), estimate, revealed, places)
    assert (levels.sum(1) == 1).all()
    assert (shares[levels.argmax(1)] > 0).all()


def ways(hidden_shares, num_free):
    """All ways in which columns take turns: the step in which each is revealed, and the probability.

    The first turn is at a share u / num_free, u uniform; between the u at which a turn passes into another step nothing
    changes.
    """
    passes = {num_free * share - turn for share in hidden_shares for turn in range(num_free)}
    edges = sorted({0.0, 1.0, *(each for each in passes if 0 < each < 1)})
    for low, high in itertools.pairwise(edges):
        turns = [(turn + (low + high) / 2) / num_free for turn in range(num_free)]
        steps = [sum(share > turn for share in hidden_shares) - 1 for turn in turns]
        for order in itertools.permutations(steps):
            yield order, (high - low) / math.factorial(num_free)


@functools.cache
def law_in_steps(hidden_shares, fixed=()):
    """The exact law of the sampler, whose columns are drawn independently when they are revealed in the same step.

    `fixed` are (column, level) from the start; all ways to spread the other columns over the steps are gone through.
    """
    free = [column for column in range(3) if column not in dict(fixed)]
    law = torch.zeros_like(JOINT)
    for steps, weight in ways(hidden_shares, len(free)):
        for cell in itertools.product(*(range(size) for size in JOINT.shape)):
            if any(cell[column] != level for column, level in fixed):
                continue
            probability, known = weight, dict(fixed)
            for step in sorted(set(steps)):
                now = [column for column, its_step in zip(free, steps, strict=True) if its_step == step]
                probability *= math.prod(conditional(column, cell[column], known) for column in now)
                known |= {column: cell[column] for column in now}
            law[cell] += probability
    return law


@functools.cache
def marginal(known):
    """Probability that the columns hold these levels; `known` is a tuple of (column, level)."""
    cells = JOINT
    for column, level in sorted(known, reverse=True):
        cells = cells.select(column, level)
    return cells.sum().item()


def conditional(column, level, known):
    whole = marginal(tuple(sorted(known.items())))
    return marginal(tuple(sorted((known | {column: level}).items()))) / whole if whole else 0.0


def hidden_shares(sampler, schedule):
    return tuple(schedule.hidden_share(schedule.grid(sampler.num_steps)).tolist())


def counts_of(rows, denoiser):
    codes = denoiser.masking.layout.codes(rows)
    assert not denoiser.masking.layout.hidden(rows).any()
    return torch.zeros_like(JOINT).index_put(codes.unbind(1), numbers(1.0), accumulate=True)


def assert_drawn_from(counts, law):
    """Chi-square test; seeded. A cell that cannot be must not be."""
    possible = law > 0
    assert (counts[~possible] == 0).all()
    expected = law[possible] / law.sum() * counts.sum()
    assert stats.chisquare(counts[possible].numpy(), expected.numpy()).pvalue > 1e-3


@pytest.mark.parametrize(('sampler', 'schedule'), SAMPLERS)
def test_few_steps_draw_the_law_that_few_steps_have(sampler, schedule):
    """With the exact conditional probabilities, a step's columns are independent, and nothing else is lost."""
    denoiser = JointDenoiser(schedule, JOINT)
    counts = counts_of(sampler.sample(denoiser, 20_000, 7, generator()), denoiser)
    law = law_in_steps(hidden_shares(sampler, schedule))
    assert law.sum().item() == pytest.approx(1, rel=1e-12)
    assert_drawn_from(counts, law)
    # The test can tell: the joint law itself, which more steps would draw, is excluded.
    assert stats.chisquare(counts.flatten().numpy() + 1, JOINT.flatten().numpy() * 20_000 + 1).pvalue < 1e-6


@pytest.mark.parametrize(('sampler', 'schedule'), SAMPLERS)
@pytest.mark.parametrize('fixed', [((1, 2),), ((0, 1), (2, 0))], ids=str)
def test_given_levels_are_conditions(sampler, schedule, fixed):
    """Levels that are revealed from the start stay, and the others follow the conditional law."""
    denoiser = JointDenoiser(schedule, JOINT)
    layout, codes = denoiser.masking.layout, torch.full((1, 3), -1)
    for column, level in fixed:
        codes[0, column] = level
    rows = layout.one_hot(codes).expand(20_000, -1)
    known = layout.spread(codes >= 0).expand(20_000, -1)
    drawn = sampler.sample(denoiser, 20_000, 7, generator(), Given(rows, known))
    assert torch.equal(drawn[known], rows[known])
    assert_drawn_from(counts_of(drawn, denoiser), law_in_steps(hidden_shares(sampler, schedule), fixed))


def test_steps_that_reveal_one_column_at_most_draw_the_joint_law():
    schedule, sampler = linear_schedule(200), AncestralSampler(4)
    assert max(-share for share in np.diff(hidden_shares(sampler, schedule))) < 1 / 3
    denoiser = JointDenoiser(schedule, JOINT)
    assert_drawn_from(counts_of(sampler.sample(denoiser, 20_000, 7, generator()), denoiser), JOINT)


@pytest.mark.parametrize(('sampler', 'schedule'), SAMPLERS)
def test_every_step_leaves_the_schedules_share_hidden(sampler, schedule):
    r"""Of those hidden at t, `(m_t - m_s) / m_t` are revealed: so `m_s` of all are hidden at s."""
    seen = []

    class Listening(JointDenoiser):
        def forward(self, x_t, t, known=None):
            seen.append((t[0].item(), self.masking.layout.hidden(x_t).double().mean().item()))
            return super().forward(x_t, t)

    num_rows = 10_000
    sampler.sample(Listening(schedule, JOINT), num_rows, 7, generator())
    assert seen[0][1] == 1
    assert len(seen) == sampler.num_steps
    for t, hidden in seen:
        m_t = schedule.hidden_share(numbers(t)).item()
        assert hidden == pytest.approx(m_t, abs=5 * math.sqrt(m_t * (1 - m_t) / (3 * num_rows)))  # 5 standard errors


class Changed(JointDenoiser):
    """All rows but the first are taken for others."""

    def forward(self, x_t, t, known=None):
        estimate = super().forward(x_t, t)
        return torch.cat([estimate[:1], estimate[1:].flip(1)])


@pytest.mark.parametrize(('sampler', 'schedule'), SAMPLERS)
def test_a_row_of_a_block_has_the_same_bits_whatever_becomes_of_the_others(sampler, schedule):
    for seed in range(5):
        rows, others = (
            sampler.sample(kind(schedule, JOINT), 40, 7, generator(seed)) for kind in (JointDenoiser, Changed)
        )
        assert torch.equal(rows[0], others[0])
        assert not torch.equal(rows[1:], others[1:])


def test_a_row_is_hidden_and_revealed_by_its_own_numbers():
    """Loss and probabilities of a row do not change with the rows beside it."""
    rows, logits = clean_rows(6), random_logits(6)
    x_t, hidden = with_hidden(rows)
    together = MASKING.cross_entropy(logits, rows, hidden), MASKING.probabilities(logits, x_t)
    alone = [
        (MASKING.cross_entropy(*(each[None] for each in row[:3])), MASKING.probabilities(row[0][None], row[3][None]))
        for row in zip(logits, rows, hidden, x_t, strict=True)
    ]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-14, atol=0)  # sums over two to four levels
