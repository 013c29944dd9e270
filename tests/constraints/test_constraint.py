import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sdv_constrained_diffusion.constraints.base import Constraint, FunctionConstraint, TableView, constraint, evaluate
from sdv_constrained_diffusion.errors import ColumnMissingError, ConstraintError

NAMES = ('gen_mw', 'load_mw', 'loss_mw')


def table(rows=4, names=NAMES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TableView(names, torch.randn(rows, len(names), generator=generator, dtype=torch.float64))


def law(function, columns=NAMES, **data):
    return constraint(columns=columns, **data)(function)


class Rings(Constraint):
    """Points of two circles, written as a class: two equations over x, y."""

    columns = ('x', 'y')

    def residual(self, table):
        squared = table.x**2 + table.y**2
        return torch.stack([squared - 1, squared - 4], dim=1)


def test_a_view_reads_one_column_by_attribute_or_name():
    view = TableView(('a', 'b'), torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
    assert view.b.tolist() == [2.0, 4.0]
    assert view['a'].tolist() == [1.0, 3.0]


def test_a_view_reads_several_columns_in_the_order_asked_for():
    view = TableView(('a', 'b', 'c'), torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.float64))
    assert view[['c', 'a']].tolist() == [[3.0, 1.0], [6.0, 4.0]]
    assert view[('b',)].tolist() == [[2.0], [5.0]]
    assert view.names == ('a', 'b', 'c')


def test_a_view_of_a_dataframe_is_float64_and_a_copy():
    data = pd.DataFrame({'a': [1, 2], 'text': ['x', 'y'], 'b': np.array([0.1, 0.2], dtype='float32')})
    view = TableView.from_dataframe(data, ['b', 'a'])
    assert view.values.dtype == torch.float64
    # Integers and float32 numbers are float64 numbers exactly.
    assert view.values.tolist() == [[float(np.float32(0.1)), 1.0], [float(np.float32(0.2)), 2.0]]
    view.values.fill_(-1)
    assert data['a'].tolist() == [1, 2]


@pytest.mark.parametrize('read', [lambda t: t.laod_mw, lambda t: t['laod_mw'], lambda t: t[['gen_mw', 'laod_mw']]])
def test_a_column_the_view_lacks_is_named_with_its_close_match(read):
    view = TableView(NAMES, table().values, 'balance')
    with pytest.raises(ColumnMissingError, match=r"balance needs column 'laod_mw'.*look close: 'load_mw'"):
        read(view)


def test_close_names_are_found_whatever_their_case():
    view = TableView(('Gen_MW', 'GEN_MW'), table().values[:, :2], 'balance')
    with pytest.raises(ColumnMissingError, match=r"column 'gen_mw'.*look close: 'Gen_MW', 'GEN_MW'"):
        view['gen_mw']


def test_private_names_are_no_columns():
    # copy and pickle ask objects for such names before any column exists.
    with pytest.raises(AttributeError, match='_repr_html_'):
        _ = table()._repr_html_


def test_the_decorator_keeps_function_columns_limits_tolerance_and_unit():
    @constraint(columns=iter(['gen_mw', 'load_mw']), lower=-1.0, upper=2.0, tolerance=0.5, unit='MW')
    def reserve(table):
        return table.gen_mw - table.load_mw

    assert isinstance(reserve, FunctionConstraint)
    assert reserve.columns == ('gen_mw', 'load_mw')
    assert (reserve.name, reserve.lower, reserve.upper, reserve.tolerance, reserve.unit) == (
        'reserve',
        -1,
        2,
        0.5,
        'MW',
    )
    view = table()
    assert reserve.residual(view).tolist() == (view.values[:, 0] - view.values[:, 1]).tolist()


def test_a_string_of_columns_is_refused():
    with pytest.raises(ConstraintError, match=r"sequence of names; it got the string 'gen_mw'"):
        constraint(columns='gen_mw')


def test_defaults_are_an_equality_with_zero():
    plain = law(lambda t: t.gen_mw)
    assert (plain.lower, plain.upper, plain.tolerance, plain.unit) == (0.0, 0.0, 1e-6, '')
    assert (Rings().lower, Rings().upper, Rings().tolerance, Rings().unit) == (0.0, 0.0, 1e-6, '')
    assert Rings().name == 'Rings'
    assert list(Rings().misreadings()) == []


def test_equations_are_named_after_the_constraint():
    assert Rings().equation_names(1) == ['Rings']
    assert Rings().equation_names(3) == ['Rings[0]', 'Rings[1]', 'Rings[2]']


def test_one_equation_of_shape_row_becomes_a_column():
    view = table()
    single = law(lambda t: t.gen_mw - t.load_mw)
    assert evaluate(single, view).tolist() == [[value] for value in (view.gen_mw - view.load_mw).tolist()]


def test_several_equations_keep_their_order():
    view = table()
    both = law(lambda t: t[['load_mw', 'gen_mw']])
    assert_close(evaluate(both, view), view.values[:, [1, 0]], rtol=0, atol=0)


@pytest.mark.parametrize(
    ('returned', 'said'),
    [
        (lambda t: t.values.numpy(), 'it returned ndarray'),
        (lambda t: 0.0, 'it returned float'),
        (lambda t: None, 'it returned NoneType'),
        (lambda t: t.gen_mw > 0, r'it returned a tensor of torch\.bool'),
        (lambda t: t.gen_mw.sum(), r'it returned \(\)\. Reduce over columns only'),
        (lambda t: t.gen_mw[:2], r'shape \(4,\) or \(4, equation\) for 4 rows; it returned \(2,\)'),
        (lambda t: t.values.T, r'it returned \(3, 4\)'),
        (lambda t: t.values[:, :, None], r'it returned \(4, 3, 1\)'),
    ],
)
def test_a_residual_of_the_wrong_type_or_shape_is_refused(returned, said):
    class Odd(Constraint):
        columns = NAMES

        def residual(self, table):
            return returned(table)

    with pytest.raises(ConstraintError, match=said) as caught:
        evaluate(Odd(), table())
    assert str(caught.value).startswith('Odd.residual must return')


def test_require_passes_complete_tables_and_names_what_is_missing():
    balance = law(lambda t: t.gen_mw)
    balance.require(iter([*NAMES, 'more']))
    with pytest.raises(ColumnMissingError, match=r"needs column 'loss_mw'.*Columns that look close: 'lossmw'"):
        balance.require(['gen_mw', 'load_mw', 'lossmw'])


def test_the_jacobian_of_the_circles_is_the_closed_form():
    x, y = 0.6, -1.7
    jacobian = Rings().jacobian(TableView(('x', 'y'), torch.tensor([[x, y]], dtype=torch.float64)))
    # Products of two numbers: exact but for the last digit.
    assert_close(jacobian, torch.tensor([[[2 * x, 2 * y]] * 2], dtype=torch.float64), rtol=1e-15, atol=0)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 6), width=st.integers(1, 5), equations=st.integers(1, 4))
def test_the_jacobian_of_quadratic_forms_is_the_closed_form(seed, rows, width, equations):
    # h_e = v^T A_e v has the gradient (A_e + A_e^T) v.
    generator = torch.Generator().manual_seed(seed)
    forms = torch.randn(equations, width, width, generator=generator, dtype=torch.float64)
    names = [f'v{index}' for index in range(width)]
    quadratic = law(lambda t: torch.einsum('ri,eij,rj->re', t.values, forms, t.values), columns=names)
    view = table(rows, names, seed)
    expected = torch.einsum('eij,rj->rei', forms + forms.mT, view.values)
    # Sums of at most ten products of order one: rounding stays near 1e-15.
    assert_close(quadratic.jacobian(view), expected, rtol=0, atol=1e-13)


def test_a_transcendental_law_passes_gradcheck_and_its_jacobian_is_the_closed_form():
    def wave(t):
        return torch.stack([torch.sin(t.gen_mw) * t.load_mw.exp(), t.loss_mw**3], dim=1)

    view = table(5)
    values = view.values.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v: evaluate(law(wave), TableView(NAMES, v)), values)
    g, d, x = view.values.unbind(1)
    zero = torch.zeros_like(g)
    expected = torch.stack(
        [
            torch.stack([g.cos() * d.exp(), g.sin() * d.exp(), zero], dim=1),
            torch.stack([zero, zero, 3 * x**2], dim=1),
        ],
        dim=1,
    )
    # Few operations on numbers of order one.
    assert_close(law(wave).jacobian(view), expected, rtol=0, atol=1e-13)


def test_the_jacobian_follows_the_order_of_the_view_not_of_the_constraint():
    view = TableView(('y', 'other', 'x'), torch.tensor([[2.0, 9.0, 3.0]], dtype=torch.float64))
    assert Rings().jacobian(view)[0, 0].tolist() == [4.0, 0.0, 6.0]


def test_an_equation_without_columns_has_gradient_zero():
    some = law(lambda t: torch.stack([t.gen_mw, torch.zeros_like(t.gen_mw)], dim=1))
    assert some.jacobian(table(2)).tolist() == [[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]] * 2


@pytest.mark.parametrize('mode', [torch.no_grad, torch.enable_grad])
def test_the_jacobian_works_inside_no_grad_and_leaves_the_table_alone(mode):
    view = table(2)
    with mode():
        assert_close(law(lambda t: t.gen_mw**2).jacobian(view)[:, 0, 0], 2 * view.gen_mw, rtol=1e-15, atol=0)
    assert not view.values.requires_grad
    assert view.values.grad is None


@pytest.mark.parametrize(
    'cut', [lambda t: t.gen_mw.detach(), lambda t: torch.as_tensor(np.sin(t.gen_mw.detach().numpy()))]
)
def test_a_residual_cut_off_from_its_columns_is_refused(cut):
    with pytest.raises(ConstraintError, match='must return a residual that torch can differentiate'):
        law(cut).jacobian(table())
