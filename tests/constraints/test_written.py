"""Constraints through JSON: what comes back computes the same residuals under the same limits."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from pandapower.networks import case5

import written_laws
from sdv_constrained_diffusion import (
    Bounds,
    ConditionalOn,
    Formula,
    Linear,
    Ordered,
    PowerFlow,
    Ratio,
    SumTo,
    constraint,
)
from sdv_constrained_diffusion.constraints.base import FunctionConstraint
from sdv_constrained_diffusion.constraints.system import ConstraintSystem
from sdv_constrained_diffusion.constraints.written import from_dict, to_dict
from sdv_constrained_diffusion.errors import ConstraintError, PluginError

FUNCTION = 'sdv_constrained_diffusion.constraints.base:FunctionConstraint'


def surplus(table):
    return table.gen_mw - table.load_mw


LAWS = [
    Linear({'gen_mw': 1.0, 'load_mw': -0.3}, -1.0, math.inf, 1e-3, 'MW'),
    SumTo(['gen_mw', 'load_mw'], 7),
    SumTo(('gen_mw',), 'load_mw', 0.01),
    Bounds('gen_mw', upper=3),
    Bounds('gen_mw', lower='2024-01-31', upper=pd.Timestamp('2024-03-01 12:00')),
    ConditionalOn('load_mw', [1, 2], Ratio('gen_mw', 'other', 0.1)),
    Ordered('load_mw', 'gen_mw', 0.5),
    Ratio('load_mw', 'gen_mw', 0.1, 0.2),
    Formula('0 <= `load_mw` ** 2 <= gen_mw', unit='MW'),
    FunctionConstraint(surplus, ['gen_mw', 'load_mw'], 0.0, 2.0, [0.1], 'MW'),
    written_laws.enough,
    PowerFlow.from_pandapower(case5(), {'vm_pu_0': 'v'}, 1e-5),
]


@pytest.mark.parametrize('law', LAWS, ids=lambda law: law.name)
def test_a_law_comes_back_from_json(law):
    again = from_dict(json.loads(json.dumps(to_dict(law))))
    assert type(again) is type(law)
    assert again.name == law.name
    rows = pd.DataFrame(np.random.default_rng(0).uniform(1, 4, (5, len(law.columns))), columns=list(law.columns))
    one, other = ConstraintSystem([law], rows), ConstraintSystem([again], rows)
    assert one.equations == other.equations
    assert (one.residual(one.values(rows)) == other.residual(other.values(rows))).all()


def test_a_decorated_function_is_the_same_function():
    assert from_dict(to_dict(written_laws.enough)).function is written_laws.enough.function


def test_what_cannot_be_imported_elsewhere_is_refused_when_it_is_written():
    @constraint(columns=['a'])
    def local(table):
        return table.a

    with pytest.raises(ConstraintError, match=r'local cannot be written down: .*top level of a module'):
        to_dict(local)
    with pytest.raises(ConstraintError, match='Wordless cannot be written down: make its class a dataclass'):
        to_dict(written_laws.Wordless())


@pytest.mark.parametrize(
    ('description', 'error', 'words'),
    [
        ({'class_name': 'written_laws:Wordless'}, ConstraintError, "needs 'class_name' and 'parameters'"),
        (
            {'class_name': 'nowhere.at_all:Law', 'parameters': {}},
            PluginError,
            "'nowhere.at_all:Law' cannot be imported",
        ),
        ({'class_name': 'written_laws:Nothing', 'parameters': {}}, PluginError, 'cannot be imported'),
        ({'class_name': ':', 'parameters': {}}, PluginError, 'cannot be imported'),
        ({'class_name': 'json:dumps', 'parameters': {}}, PluginError, 'must name a subclass of Constraint'),
        ({'class_name': 'written_laws:Wordless', 'parameters': {'x': 1}}, ConstraintError, 'does not take'),
        ({'class_name': '..x:y', 'parameters': {}}, PluginError, 'cannot be imported'),
        ({'class_name': FUNCTION, 'parameters': {'columns': ['a']}}, ConstraintError, 'does not take'),
    ],
)
def test_what_is_no_written_constraint_is_refused(description, error, words):
    with pytest.raises(error, match=words):
        from_dict(description)
