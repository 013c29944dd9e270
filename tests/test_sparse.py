"""Sparse matrices: what scipy says, and copies."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sdv_constrained_diffusion._sparse import CompressedRows


@pytest.mark.parametrize('shape', [(5, 7), (1, 1), (0, 4), (3, 0)])
def test_products_are_scipys_and_copies_are_the_same_matrix(shape):
    matrix = sp.random(*shape, density=0.4, format='csr', random_state=0)
    columns = np.random.default_rng(0).normal(size=(shape[1], 3))
    ours = CompressedRows.of(matrix)
    for each in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        # Sums of a few terms of order one.
        np.testing.assert_allclose((each @ torch.from_numpy(columns)).numpy(), matrix @ columns, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(each.to_dense().numpy(), matrix.toarray())
    assert ours.to(torch.zeros(1)).dtype == torch.float32
    assert ours.to(torch.zeros(1).double()) is ours


def test_derivatives_pass_through():
    matrix = sp.random(6, 4, density=0.5, format='csr', random_state=1)
    columns = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
    (CompressedRows.of(matrix) @ columns).sum().backward()
    np.testing.assert_allclose(columns.grad.numpy()[:, 0], matrix.toarray().sum(0), rtol=0, atol=1e-14)
