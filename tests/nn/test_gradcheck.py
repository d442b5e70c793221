import numpy as np
import pytest

from mpips import nn
from mpips.errors import MpipsError


def square(p):
    return (p["w"] ** 2).sum(), {"w": 2 * p["w"]}


def test_right_gradients_pass_and_float32_parameters_are_widened():
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert nn.gradcheck(square, {"w": w})["w"] < 1e-8
    assert w.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_in_every_library(lib):
    p = lib.many({"w": np.arange(6.0).reshape(2, 3), "b": np.array(2.0)})

    def f(p):
        return float(lib.get(p["w"] * p["b"]).sum()), {"w": p["b"] + 0.0 * p["w"], "b": lib.put(lib.get(p["w"]).sum())}

    assert nn.gradcheck(f, p).keys() == {"w", "b"}


@pytest.mark.parametrize(("wrong", "why"), [
    ({"w": np.array([0.0, 2.0, 4.1])}, r"gradient of 'w' at \(2,\): 4.1, by finite differences 4"),
    ({"w": np.array([0.0, np.nan, 4.0])}, r"gradient of 'w' at \(1,\): nan"),
    ({"w": np.zeros(2)}, r"gradient of 'w': shape \(2,\), expected \(3,\)"),
    ({"v": np.zeros(3)}, "gradient of 'w' is missing; there are v"),
])
def test_wrong_gradients_are_named(wrong, why):
    with pytest.raises(MpipsError, match=why):
        nn.gradcheck(lambda p: (square(p)[0], wrong), {"w": np.arange(3.0)})


def test_some_entries_are_enough():
    calls = []

    def f(p):
        calls.append(1)
        return square(p)

    nn.gradcheck(f, {"w": np.ones((50, 50))}, entries=7)
    assert len(calls) == 1 + 2 * 7
