"""Work on blocks of rows in threads."""

import threading

import pandas as pd
import pytest
import torch

from mixed_table import make_synthesizer
from sdv_constrained_diffusion import Formula
from sdv_constrained_diffusion._batches import in_threads
from sdv_version import fit, metadata_of, sample


@pytest.fixture
def threads():
    """Sets torch's number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_items_are_worked_on_at_once_each_by_one_thread_and_come_back_in_order(threads):
    threads(2)
    meeting = threading.Barrier(2, timeout=30)

    def work(item):
        meeting.wait()  # breaks if items are done one after the other
        return item, torch.get_num_threads(), torch.is_grad_enabled()

    assert in_threads(work, range(4)) == [(item, 1, False) for item in range(4)]
    assert torch.get_num_threads() == 2
    assert torch.is_grad_enabled()


def test_with_one_thread_there_is_no_other(threads):
    threads(1)
    assert set(in_threads(lambda _: threading.get_ident(), range(3))) == {threading.get_ident()}
    assert in_threads(abs, []) == []


def test_items_are_done_one_after_another_where_that_is_asked_for(threads):
    threads(3)
    done = in_threads(lambda item: (item, threading.get_ident()), range(20), most=1)
    assert [item for item, _ in done] == list(range(20))
    assert len({ident for _, ident in done}) == 1


def test_an_error_in_a_thread_is_the_callers_and_the_number_of_threads_is_put_back(threads):
    threads(2)

    def fail(item):
        raise ValueError(item)

    with pytest.raises(ValueError, match='0'):
        in_threads(fail, range(3))
    assert torch.get_num_threads() == 2


def test_rows_are_the_same_bits_with_any_number_of_threads(threads):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 600, generator=generator, dtype=torch.float64)
    table = pd.DataFrame({'x': x, 'y': y, 'z': x * y + x, 'kind': torch.where(x > 0, 1, 0).numpy().astype(str)})
    synthesizer = make_synthesizer(table, metadata_of(table), epochs=5)
    synthesizer.add_constraints([Formula('z == x * y + x')])
    synthesizer = fit(synthesizer, table)
    drawn = []
    for number in (1, 2, 3):
        threads(number)
        synthesizer.reset_sampling()
        drawn.append(sample(synthesizer, 1700))
    pd.testing.assert_frame_equal(drawn[0], drawn[1], check_exact=True)
    pd.testing.assert_frame_equal(drawn[0], drawn[2], check_exact=True)
