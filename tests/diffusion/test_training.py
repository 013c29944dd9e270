"""Training: what it learns, that it repeats bit by bit, and that rate and running mean are as documented."""

import dataclasses
import io
import itertools
import math
import re
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sdv_constrained_diffusion._layout import Layout
from sdv_constrained_diffusion.diffusion import training
from sdv_constrained_diffusion.diffusion.backbone import ResidualMLP
from sdv_constrained_diffusion.diffusion.denoiser import Denoiser, PreconditionedDenoiser
from sdv_constrained_diffusion.diffusion.plan import TrainingPlan
from sdv_constrained_diffusion.diffusion.schedule import EDMSchedule
from sdv_constrained_diffusion.diffusion.training import train

COVARIANCE = torch.tensor([[1.0, 0.95], [0.95, 1.0]], dtype=torch.float64)
IDENTITY = torch.eye(2, dtype=torch.float64)


def gaussian_rows(num_rows, generator, covariance=COVARIANCE):
    normal = torch.randn(num_rows, 2, generator=generator, dtype=torch.float64)
    return normal @ torch.linalg.cholesky(covariance).T


def network(seed=0, width=32):
    torch.manual_seed(seed)
    return PreconditionedDenoiser(ResidualMLP(2, width=width, depth=2, time_width=16), EDMSchedule(), Layout(2))


class Slope(Denoiser):
    """One weight whose loss is `slope * weight`: with any gradient of one sign Adam moves it by the rate, exactly."""

    def __init__(self, slope=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.slope, self.visited, self.rows = slope, [], []

    def forward(self, x_t, t, known=None):
        return x_t

    def loss(self, x_0, generator):
        self.visited.append(self.weight.item())
        self.rows.append(x_0.detach().clone())
        return self.slope * self.weight.expand(len(x_0))


def run_slope(plan, num_rows=4, slope=1.0):
    """Weights before each step, and the weight that training leaves."""
    denoiser = Slope(slope)
    rows = torch.arange(float(num_rows), dtype=torch.float64)[:, None]
    record = train(denoiser, lambda _: rows, plan, torch.Generator().manual_seed(0))
    return denoiser, record


def rates(plan, num_rows):
    """The rate of each step but the last, from how far the weight moved."""
    visited = run_slope(plan, num_rows)[0].visited
    return [before - after for before, after in itertools.pairwise(visited)]


@pytest.fixture(scope='module')
def trained():
    """A small network after 1,200 steps on Gaussian rows, drawn anew for each epoch, and what was recorded."""
    denoiser = network(width=64)
    plan = TrainingPlan(epochs=150, batch_size=512, learning_rate=3e-3)
    record = train(denoiser, lambda draw: gaussian_rows(4096, draw), plan, torch.Generator().manual_seed(0))
    return denoiser.requires_grad_(False), record


@pytest.mark.parametrize('sigma', [0.05, 0.2, 0.5, 1.0, 3.0])
def test_learns_the_posterior_mean_of_a_gaussian(trained, sigma):
    r"""`E[x_0 | x_t] = S (S + \sigma^2 I)^{-1} x_t`.

    The untrained estimate, `x_t / (1 + \sigma^2)`, knows the variances and misses the correlation. Training must
    remove three quarters of that error at every noise scale: seen 0.05 to 0.19 of it left, over several seeds.
    """
    held_out, noise = (
        gaussian_rows(2000, torch.Generator().manual_seed(seed), c) for seed, c in ((1, COVARIANCE), (2, IDENTITY))
    )
    x_t, t = held_out + sigma * noise, torch.full((2000,), sigma, dtype=torch.float64)
    exact = x_t @ torch.linalg.solve(COVARIANCE + sigma**2 * IDENTITY, COVARIANCE)
    error, unlearned = ((x - exact).square().mean().sqrt() for x in (trained[0](x_t, t), x_t / (1 + sigma**2)))
    assert error < 0.25 * unlearned


def test_loss_falls_to_the_conditional_variance(trained):
    r"""No estimate can have a loss below `E[tr Cov(x_0 | x_t) (1 + \sigma^2) / \sigma^2] / 2`: 0.867 for these rows."""
    losses = trained[1].losses
    sigma = EDMSchedule().draw(100_000, torch.Generator().manual_seed(3))[:, None]
    best = (torch.linalg.eigvalsh(COVARIANCE) * (1 + sigma**2) / (torch.linalg.eigvalsh(COVARIANCE) + sigma**2)).mean()
    # Ten epochs of 4,096 rows of two numbers of variance about 1: standard error 0.004, and what is left to learn.
    assert sum(losses[-10:]) / 10 == pytest.approx(best.item(), abs=0.02)
    assert sum(losses[:5]) / 5 > best + 0.05


def test_one_seed_gives_the_same_bits():
    def run(seed, global_seed):
        denoiser = network()
        torch.manual_seed(global_seed)  # must not matter
        record = train(
            denoiser,
            lambda draw: gaussian_rows(100, draw),
            TrainingPlan(epochs=4, batch_size=32),
            torch.Generator().manual_seed(seed),
        )
        return record.losses, torch.cat([p.detach().flatten() for p in denoiser.parameters()])

    losses, weights = run(7, global_seed=1)
    same_losses, same_weights = run(7, global_seed=2)
    assert losses == same_losses
    assert torch.equal(weights, same_weights)
    other_losses, other_weights = run(8, global_seed=1)
    assert losses != other_losses
    assert not torch.equal(weights, other_weights)


@settings(deadline=None)
@given(num_rows=st.integers(1, 40), batch_size=st.integers(1, 50), epochs=st.integers(1, 3))
def test_every_epoch_visits_each_row_once_in_batches(num_rows, batch_size, epochs):
    denoiser, record = run_slope(TrainingPlan(epochs=epochs, batch_size=batch_size), num_rows)
    batches = math.ceil(num_rows / batch_size)
    assert len(denoiser.rows) == epochs * batches
    assert all(len(batch) <= batch_size for batch in denoiser.rows)
    for epoch in range(epochs):
        visited = torch.cat(denoiser.rows[epoch * batches : (epoch + 1) * batches])[:, 0]
        assert sorted(visited.tolist()) == list(range(num_rows))
    assert len(record.losses) == len(record.cpu_seconds) == epochs
    assert all(seconds >= 0 for seconds in record.cpu_seconds)


def test_rows_are_drawn_anew_after_some_epochs_and_shuffled_in_each(monkeypatch):
    monkeypatch.setattr(training, 'REDRAWN_AFTER', 2)
    drawn = []

    def draw_rows(generator):
        drawn.append(torch.randn(50, 1, generator=generator, dtype=torch.float64))
        return drawn[-1]

    denoiser = Slope()
    train(denoiser, draw_rows, TrainingPlan(epochs=4, batch_size=50), torch.Generator().manual_seed(0))
    assert len(drawn) == 2
    assert not torch.equal(denoiser.rows[0], denoiser.rows[1])
    for rows, seen in zip([drawn[0], drawn[0], drawn[1], drawn[1]], denoiser.rows, strict=True):
        assert torch.equal(rows.sort(0).values, seen.sort(0).values)
        assert not torch.equal(rows, seen)
    assert not torch.equal(drawn[0], drawn[1])


def test_recorded_loss_is_the_mean_over_rows_not_over_batches():
    class RowLoss(Slope):
        def loss(self, x_0, generator):
            return x_0[:, 0] + 0 * self.weight

    rows = torch.tensor([[1.0], [2], [3], [4], [50]]).double()
    record = train(RowLoss(), lambda _: rows, TrainingPlan(epochs=2, batch_size=4), torch.Generator().manual_seed(0))
    assert record.losses == pytest.approx([12.0, 12.0], rel=1e-14)  # a few roundings


PLAIN = TrainingPlan(epochs=None, batch_size=1, learning_rate=0.01, weight_decay=0.0, ema=0.0, warmup_steps=1)

ADAM = 1e-6
"""Adam divides by |g| + 1e-8: for a gradient of 1 its step is the rate up to 1e-8 and rounding."""


@settings(deadline=None)
@given(decay_steps=st.integers(1, 6), decay_factor=st.floats(0.1, 1), rate=st.floats(1e-4, 1e-1))
def test_exponential_decay(decay_steps, decay_factor, rate):
    plan = TrainingPlan(
        epochs=5,
        batch_size=1,
        learning_rate=rate,
        weight_decay=0.0,
        ema=0.0,
        decay='exponential',
        decay_steps=decay_steps,
        decay_factor=decay_factor,
    )
    expected = [rate * decay_factor ** (step // decay_steps) for step in range(19)]
    assert rates(plan, 4) == pytest.approx(expected, rel=ADAM)


@settings(deadline=None)
@given(warmup_steps=st.integers(0, 20), epochs=st.integers(1, 20))
def test_cosine_decay_after_a_warm_up(warmup_steps, epochs):
    """The smaller of a line that reaches 1 after the warm-up, at most a tenth of the run, and half a cosine to 0."""
    num_steps = 4 * epochs
    plan = TrainingPlan(
        epochs=epochs, batch_size=1, learning_rate=0.01, weight_decay=0.0, ema=0.0, warmup_steps=warmup_steps
    )
    warmup = max(min(warmup_steps, num_steps // 10), 1)
    expected = [
        0.01 * min((step + 1) / warmup, (1 + math.cos(math.pi * step / num_steps)) / 2) for step in range(num_steps - 1)
    ]
    assert rates(plan, 4) == pytest.approx(expected, rel=ADAM)


@settings(deadline=None)
@given(warmup_steps=st.integers(0, 20), epochs=st.integers(1, 20))
def test_trapezoid_after_a_warm_up(warmup_steps, epochs):
    """A line up, the largest rate, and a line to 0 over the last quarter."""
    num_steps = 4 * epochs
    plan = dataclasses.replace(PLAIN, epochs=epochs, warmup_steps=warmup_steps, decay='trapezoid')
    warmup = max(min(warmup_steps, num_steps // 10), 1)
    expected = [
        0.01 * min((step + 1) / warmup, 1, (num_steps - step) / (num_steps / 4)) for step in range(num_steps - 1)
    ]
    assert rates(plan, 4) == pytest.approx(expected, rel=ADAM)


class Rising(Slope):
    """Its loss on rows of 2, those held out, falls until the weight is -1 and rises then."""

    def __init__(self, lowest=0.0):
        super().__init__()
        self.lowest = lowest

    def loss(self, x_0, generator):
        if (x_0 == 2).all():
            return (self.lowest + (self.weight + 1).abs()).expand(len(x_0))
        return super().loss(x_0, generator)


WATCHFUL = TrainingPlan(
    epochs=None,
    max_steps=4000,
    batch_size=1,
    learning_rate=1e-3,
    weight_decay=0.0,
    ema=0.0,
    warmup_steps=1,
    decay='trapezoid',
    patience=0.4,
)


def run_watchful(denoiser, plan=WATCHFUL):
    held_out = torch.full((5, 1), 2.0, dtype=torch.float64)
    rows = torch.zeros(4, 1, dtype=torch.float64)
    return train(denoiser, lambda _: rows, plan, torch.Generator().manual_seed(0), held_out=held_out)


@pytest.mark.parametrize(('lowest', 'goes_back'), [(0.0, True), (100.0, False)])
def test_training_cools_down_once_the_held_out_loss_has_stalled(lowest, goes_back):
    """The loss is least after 1,000 steps of 1e-3; seen as stalled at 1,000 / 0.6; a quarter of the run is left then.

    It is measured every 50 steps at first, later each twentieth of the run: so much later either may be seen. A loss
    that has risen by two thirds of a hundredth is let be; one that is a multiple of the lowest takes the run back.
    """
    denoiser = Rising(lowest)
    record = run_watchful(denoiser)
    stalled, made = 4 * record.stalled_at, len(denoiser.visited)
    assert 1000 / 0.6 - 4 <= stalled <= 1.1 * 1000 / 0.6
    best = 4 * min(record.held_out_losses, key=record.held_out_losses.get)
    assert best == pytest.approx(1000, abs=60)
    assert made - stalled == pytest.approx((best if goes_back else stalled) / 3, abs=8)
    weights = [*denoiser.visited, denoiser.weight.item()]
    # A line from 1e-3 to 0 moves the weight half as far as the steps do without it.
    moved = (best if goes_back else stalled) + (made - stalled) / 2
    assert weights[-1] == pytest.approx(-1e-3 * moved, abs=5e-3)
    assert weights[stalled - 8] - weights[stalled - 7] == pytest.approx(1e-3, rel=ADAM)
    assert 0 <= weights[-2] - weights[-1] < 0.01e-3
    assert max(record.held_out_losses) == len(record.losses) - 1  # the last weights are measured, too
    assert record.num_held_out == 5


@pytest.mark.parametrize('changes', [{'patience': None}, {'max_steps': 1200}])
def test_without_patience_or_time_to_stall_the_whole_run_is_made(changes):
    denoiser, plan = Rising(), dataclasses.replace(WATCHFUL, **changes)
    record = run_watchful(denoiser, plan)
    assert len(denoiser.visited) == plan.max_steps
    assert record.stalled_at is None
    assert bool(record.held_out_losses) == (plan.patience is not None)


def test_a_held_out_loss_is_that_of_the_running_mean_and_takes_no_randomness():
    """Weights and batches are the same with and without watching; the loss is 1 less the mean's distance moved."""
    plan = dataclasses.replace(WATCHFUL, max_steps=100, ema=0.9)
    watched, blind = Rising(), Rising()
    record = run_watchful(watched, plan)
    run_watchful(blind, dataclasses.replace(plan, patience=None))
    assert watched.visited == blind.visited
    assert watched.weight.item() == blind.weight.item()
    assert record.held_out_losses[24] == pytest.approx(1 + watched.weight.item(), rel=1e-12)


def test_weight_decay_is_decoupled():
    r"""AdamW: `w <- (1 - rate * decay) w - rate * sign(g)` for a constant gradient."""
    plan = TrainingPlan(
        epochs=3, batch_size=1, learning_rate=0.1, weight_decay=0.5, ema=0.0, decay='exponential', decay_factor=1.0
    )
    weight, expected = 0.0, []
    for _ in range(12):
        expected.append(weight)
        weight = (1 - 0.05) * weight - 0.1
    assert run_slope(plan)[0].visited == pytest.approx(expected, rel=ADAM)


def test_biases_do_not_decay():
    """Adam moves both by the rate at each step; only the weight is drawn back to 0."""

    class Both(Slope):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros((), dtype=torch.float64))

        def loss(self, x_0, generator):
            return super().loss(x_0, generator) + self.slope * self.bias

    denoiser = Both()
    plan = TrainingPlan(
        epochs=3, batch_size=1, learning_rate=0.1, weight_decay=0.5, ema=0.0, decay='exponential', decay_factor=1.0
    )
    train(denoiser, lambda _: torch.zeros(4, 1).double(), plan, torch.Generator().manual_seed(0))
    assert denoiser.bias.item() == pytest.approx(-12 * 0.1, rel=ADAM)
    assert denoiser.weight.item() == pytest.approx(-2 * (1 - 0.95**12), rel=ADAM)


@pytest.mark.parametrize('ema', [0.5, 0.15, 0.999])
def test_running_mean_by_hand(ema):
    """The first step's weights start the mean; after n more, it keeps min(ema, (1 + n) / (10 + n)) of itself."""
    plan = TrainingPlan(epochs=3, batch_size=1, learning_rate=0.01, weight_decay=0.0, decay='exponential', ema=ema)
    denoiser, _ = run_slope(plan)
    after_steps = [*denoiser.visited[1:], denoiser.visited[-1] - 0.01]
    mean = after_steps[0]
    for n, weight in enumerate(after_steps[1:], start=1):
        keep = min(ema, (1 + n) / (10 + n))
        mean = keep * mean + (1 - keep) * weight
    assert denoiser.weight.item() == pytest.approx(mean, rel=ADAM)
    last, _ = run_slope(TrainingPlan(**{**vars(plan), 'ema': 0.0}))
    assert last.weight.item() == pytest.approx(after_steps[-1], rel=ADAM)


def test_clipping_bounds_the_gradient():
    """Adam forgets a gradient's size but not its change: after gradients g and then 100 g its step shows the clip."""

    class Growing(Slope):
        def loss(self, x_0, generator):
            self.slope = 100.0 if self.visited else 1.0
            return super().loss(x_0, generator)

    def second_step(clip):
        denoiser = Growing()
        plan = TrainingPlan(
            epochs=2,
            batch_size=1,
            learning_rate=0.01,
            weight_decay=0.0,
            ema=0.0,
            clip=clip,
            decay='exponential',
            decay_factor=1.0,
        )
        train(denoiser, lambda _: torch.zeros(1, 1).double(), plan, torch.Generator().manual_seed(0))
        return (denoiser.visited[1] - denoiser.weight.item()) / 0.01

    def adam(first, second):
        m = (0.9 * 0.1 * first + 0.1 * second) / (1 - 0.9**2)
        v = (0.999 * 0.001 * first**2 + 0.001 * second**2) / (1 - 0.999**2)
        return m / math.sqrt(v)

    assert second_step(1.0) == pytest.approx(adam(1, 1), rel=1e-5)  # the clip divides by the norm + 1e-6
    assert second_step(10.0) == pytest.approx(adam(1, 10), rel=1e-5)
    assert second_step(math.inf) == pytest.approx(adam(1, 100), rel=1e-5)


class SteppingTime:
    """Stands in for the module `time`: processor time passes when it is told to."""

    def __init__(self):
        self.now = 100.0

    def process_time(self):
        return self.now


class Costly(Slope):
    """As `Slope`, but a step takes so many seconds."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def loss(self, x_0, generator):
        self.clock.now += self.seconds[len(self.visited) % len(self.seconds)]
        return super().loss(x_0, generator)


def run_timed(monkeypatch, plan, seconds=(1.0,), num_rows=4):
    clock = SteppingTime()
    for module in ('training', 'clock'):
        monkeypatch.setattr(f'sdv_constrained_diffusion.diffusion.{module}.time', clock)
    denoiser = Costly(clock, seconds)
    rows = torch.arange(float(num_rows), dtype=torch.float64)[:, None]
    return denoiser, train(denoiser, lambda _: rows, plan, torch.Generator().manual_seed(0))


@pytest.mark.parametrize('epochs', [None, 100])
def test_training_ends_when_the_time_is_over_at_the_end_of_the_cosine(monkeypatch, epochs):
    """Ten steps of a second each in ten seconds: half a cosine in ten steps; the third epoch is cut in its middle."""
    plan = dataclasses.replace(PLAIN, epochs=epochs, max_time=10.0)
    denoiser, record = run_timed(monkeypatch, plan)
    assert len(denoiser.visited) == 10
    assert len(record.losses) == 3
    assert record.cpu_seconds == [4.0, 4.0, 2.0]
    weights = [*denoiser.visited, denoiser.weight.item()]
    moves = [before - after for before, after in itertools.pairwise(weights)]
    expected = [0.01 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]
    assert moves == pytest.approx(expected, rel=ADAM)
    # The loss of the epoch that was cut is that of its rows: the slope times the weight.
    assert record.losses[2] == pytest.approx(sum(denoiser.visited[8:]) / 2, rel=1e-12)


def test_the_rate_follows_the_time_that_steps_take(monkeypatch):
    """Steps of two seconds and of half a second: the cosine is read at the time, not at the step."""
    denoiser, _ = run_timed(monkeypatch, dataclasses.replace(PLAIN, max_time=10.0), seconds=(2.0, 0.5))
    weights = [*denoiser.visited, denoiser.weight.item()]
    moves = [before - after for before, after in itertools.pairwise(weights)]
    passed = [0, 2, 2.5, 4.5, 5, 7, 7.5, 9.5]
    expected = [0.01 * (1 + math.cos(math.pi * seconds / 10)) / 2 for seconds in passed]
    assert moves == pytest.approx(expected, rel=ADAM)


def test_whichever_limit_comes_first_counts(monkeypatch):
    """Two epochs of four steps in a hundred seconds: the steps decide, and the cosine ends with them."""
    denoiser, record = run_timed(monkeypatch, dataclasses.replace(PLAIN, epochs=2, max_time=100.0))
    assert (len(denoiser.visited), len(record.losses)) == (8, 2)
    moves = [before - after for before, after in itertools.pairwise(denoiser.visited)]
    assert moves == pytest.approx([0.01 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(7)], rel=ADAM)


def test_one_step_is_made_however_short_the_time(monkeypatch):
    denoiser, record = run_timed(monkeypatch, dataclasses.replace(PLAIN, max_time=1e-9))
    assert len(denoiser.visited) == 1
    assert denoiser.weight.item() == pytest.approx(-0.01, rel=ADAM)
    assert len(record.losses) == 1


def test_real_time_ends_a_run():
    """Processor time of this machine: the run stops with the step in which the time is over, a fraction of a second."""
    start = time.process_time()
    run_slope(dataclasses.replace(PLAIN, max_time=0.2))
    assert 0.2 <= time.process_time() - start < 2.0


@settings(deadline=None)
@given(
    num_rows=st.integers(1, 30),
    batch_size=st.integers(1, 12),
    epochs=st.integers(1, 6),
    max_steps=st.integers(1, 60),
)
def test_max_steps_leaves_out_whole_epochs_but_not_the_first(num_rows, batch_size, epochs, max_steps):
    plan = TrainingPlan(epochs=epochs, batch_size=batch_size, max_steps=max_steps)
    denoiser, record = run_slope(plan, num_rows)
    batches = math.ceil(num_rows / batch_size)
    made = len(record.losses)
    assert len(denoiser.visited) == made * batches
    assert 1 <= made <= epochs
    assert made == 1 or made * batches <= max_steps
    assert made == epochs or (made + 1) * batches > max_steps  # one more would have been too many


def test_a_network_larger_than_the_reference_makes_fewer_steps(monkeypatch):
    monkeypatch.setattr('sdv_constrained_diffusion.diffusion.plan.REFERENCE_WEIGHTS', 0.25)  # it has one weight
    _, record = run_slope(TrainingPlan(epochs=100, batch_size=4, max_steps=40), num_rows=4)
    assert len(record.losses) == 10


@pytest.mark.parametrize(('epochs', 'made'), [(600, 600), (None, 500)])
@pytest.mark.parametrize('max_steps', [5000, None])
def test_rows_that_nobody_watches_are_not_passed_for_long(epochs, made, max_steps):
    """Where neither passes nor time are given, and no rows tell when to stop, 500 passes are made at most."""
    _, record = run_slope(TrainingPlan(epochs=epochs, batch_size=1, max_steps=max_steps), num_rows=1)
    assert len(record.losses) == made


def test_the_cosine_ends_with_the_steps_that_are_made():
    plan = dataclasses.replace(PLAIN, epochs=100, max_steps=10)
    expected = [0.01 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(7)]
    assert rates(plan, 4) == pytest.approx(expected, rel=ADAM)  # two epochs of four


def test_rows_may_be_written_out_when_they_are_asked_for():
    """A table too wide for memory has a length and gives the rows of an index; a tensor gives the same training."""

    class OnDemand:
        def __init__(self, rows):
            self.rows, self.asked = rows, []

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, index):
            self.asked.append(index)
            return self.rows[index]

    rows = gaussian_rows(70, torch.Generator().manual_seed(0))
    table, plan, weights = OnDemand(rows), TrainingPlan(epochs=2, batch_size=32), []
    for given_rows in (rows, table):
        denoiser = network()
        train(denoiser, lambda _, given_rows=given_rows: given_rows, plan, torch.Generator().manual_seed(0))
        weights.append(torch.cat([p.detach().flatten() for p in denoiser.parameters()]))
    assert torch.equal(*weights)
    assert [len(index) for index in table.asked] == [32, 32, 6] * 2
    for epoch in (table.asked[:3], table.asked[3:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(70))


@pytest.mark.parametrize('verbose', [True, False])
def test_progress_bar_only_when_asked_and_on_a_terminal(verbose, monkeypatch):
    """`tqdm` writes to standard error; what stands in for it here says that it is a terminal."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    plan = TrainingPlan(epochs=2)
    for stream, shows in ((Terminal(), verbose), (io.StringIO(), False)):
        monkeypatch.setattr(sys, 'stderr', stream)
        train(Slope(), lambda _: torch.zeros(4, 1).double(), plan, torch.Generator(), verbose=verbose)
        written = stream.getvalue()
        assert ('Training' in written and 'loss=' in written) == shows
        assert bool(re.search(r'\d\d:\d\d<', written)) == shows  # elapsed < left
        assert bool(written) == shows


def test_default_is_silent(capfd):
    run_slope(TrainingPlan(epochs=2))
    assert capfd.readouterr() == ('', '')
