"""Every rule in float64 against its paper, written down literally, and against PyTorch's recorded numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips import optim
from mpips.optim import Fold, Optimizer, RowFold, make
from mpips.table import Dense

Array = np.ndarray[Any, np.dtype[Any]]
STEPS = 14
REFERENCE = json.loads(Path(__file__).with_name("torch_reference.json").read_text())


def ours(rule: Optimizer, start: Array, grads: Array) -> Iterator[Array]:
    """Yield the values after each fold; of a rule for rows, of a table of one row."""
    if rule.row_slots:
        row, rows, one = start[None].copy(), RowFold(rule, "float64", start.size, "numpy", rows=1), np.array([1])
        state = rows.new_slots(1)
        for step, g in enumerate(grads, 1):
            rows(row, state, one - 1, one * step, g[None], clock=step - 1)
            yield row[0].copy()
        return
    fold = Fold(rule, Dense("w", shape=start.shape, optimizer=rule, dtype="float64"), engine="numpy")
    w, new = start.copy(), np.empty_like(start)
    slots = list(fold.new_slots(w).values())
    for step, g in enumerate(grads, 1):
        fold(w, new, slots, [g], step=step, clock=step - 1)
        w, new = new, w
        yield w.copy()


def sgd(w: Array, grads: Array) -> Iterator[Array]:
    for g in grads:
        w = w - 0.1 * g
        yield w


def momentum(w: Array, grads: Array) -> Iterator[Array]:
    velocity = np.zeros_like(w)  # Sutskever et al., eq. 1 and 2, with v = -lr m
    for g in grads:
        velocity = 0.8 * velocity - 0.1 * g
        w = w + velocity
        yield w


def nesterov(w: Array, grads: Array) -> Iterator[Array]:
    """Sutskever et al., eq. 3 and 4, take g at w + mu v; PyTorch's w is that point, so it is followed here."""
    velocity = np.zeros_like(w)
    base = w  # the paper's theta; w = theta + mu v
    for g in grads:
        velocity = 0.8 * velocity - 0.1 * g
        base = base + velocity
        yield base + 0.8 * velocity


def adagrad(w: Array, grads: Array) -> Iterator[Array]:
    past: list[Array] = []
    for g in grads:
        past.append(g**2)
        w = w - 0.1 * g / (np.sqrt(0.2 + np.sum(past, axis=0)) + 1e-6)
        yield w


def rowadagrad(w: Array, grads: Array) -> Iterator[Array]:
    past: list[float] = []
    for g in grads:
        past.append(float(np.dot(g, g)) / g.size)
        w = w - 0.1 * g / (np.sqrt(0.2 + sum(past)) + 1e-6)
        yield w


def rmsprop(w: Array, grads: Array) -> Iterator[Array]:
    mean_square = np.zeros_like(w)
    for g in grads:
        mean_square = 0.9 * mean_square + 0.1 * g**2
        w = w - 0.1 * g / (np.sqrt(mean_square) + 1e-6)
        yield w


def adadelta(w: Array, grads: Array) -> Iterator[Array]:
    e_g, e_x = np.zeros_like(w), np.zeros_like(w)

    def rms(e: Array) -> Array:
        return np.sqrt(e + 1e-4)

    for g in grads:
        e_g = 0.7 * e_g + 0.3 * g**2
        x = -rms(e_x) / rms(e_g) * g
        e_x = 0.7 * e_x + 0.3 * x**2
        w = w + 0.5 * x
        yield w


def adam(w: Array, grads: Array) -> Iterator[Array]:
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, 1):
        m = 0.8 * m + 0.2 * g
        v = 0.95 * v + 0.05 * g**2
        w = w - 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-5)
        yield w


def adamw(w: Array, grads: Array) -> Iterator[Array]:
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, 1):
        m = 0.8 * m + 0.2 * g
        v = 0.95 * v + 0.05 * g**2
        w = w - 0.1 * ((m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-5) + 0.3 * w)
        yield w


def amsgrad(w: Array, grads: Array) -> Iterator[Array]:
    m, v, largest = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, 1):
        m = 0.8 * m + 0.2 * g
        v = 0.6 * v + 0.4 * g**2
        largest = np.where(v > largest, v, largest)
        w = w - 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(largest / (1 - 0.6**t)) + 1e-5)
        yield w


def lion(w: Array, grads: Array) -> Iterator[Array]:
    m = np.zeros_like(w)
    for g in grads:
        update = np.sign(0.8 * m + 0.2 * g)
        w = w - 0.1 * (update + 0.3 * w)
        m = 0.95 * m + 0.05 * g
        yield w


def ftrl(w: Array, grads: Array) -> Iterator[Array]:
    alpha, beta, l1, l2 = 0.4, 0.5, 0.6, 0.1
    z, n = np.zeros_like(w), np.zeros_like(w)
    w = w.copy()
    for g in grads:
        for i in range(w.size):
            sigma = (np.sqrt(n[i] + g[i] ** 2) - np.sqrt(n[i])) / alpha
            z[i] += g[i] - sigma * w[i]
            n[i] += g[i] ** 2
            if abs(z[i]) <= l1:
                w[i] = 0.0
            else:
                w[i] = -(z[i] - np.sign(z[i]) * l1) / ((beta + np.sqrt(n[i])) / alpha + l2)
        yield w


def add(w: Array, grads: Array) -> Iterator[Array]:
    for g in grads:
        w = w + g
        yield w


PAPERS: list[tuple[Optimizer, Callable[[Array, Array], Iterator[Array]]]] = [
    (optim.SGD(0.1), sgd),
    (optim.Momentum(0.1, 0.8), momentum),
    (optim.Nesterov(0.1, 0.8), nesterov),
    (optim.Adagrad(0.1, eps=1e-6, initial_accumulator=0.2), adagrad),
    (optim.RowAdagrad(0.1, eps=1e-6, initial_accumulator=0.2), rowadagrad),
    (optim.RMSProp(0.1, rho=0.9, eps=1e-6), rmsprop),
    (optim.Adadelta(0.5, rho=0.7, eps=1e-4), adadelta),
    (optim.Adam(0.1, 0.8, 0.95, 1e-5), adam),
    (optim.AdamW(0.1, 0.8, 0.95, 1e-5, weight_decay=0.3), adamw),
    (optim.AMSGrad(0.1, 0.8, 0.6, 1e-5), amsgrad),
    (optim.Lion(0.1, 0.8, 0.95, weight_decay=0.3), lion),
    (optim.FTRL(0.4, beta=0.5, l1=0.6, l2=0.1), ftrl),
    (optim.Add(), add),
]


def test_every_rule_has_its_paper() -> None:
    assert {type(rule) for rule, _ in PAPERS} == set(optim.OPTIMIZERS.values())


@pytest.mark.parametrize(("rule", "paper"), PAPERS, ids=[r.name for r, _ in PAPERS])
def test_rule_is_the_papers(rule: Optimizer, paper: Callable[[Array, Array], Iterator[Array]]) -> None:
    random = np.random.default_rng(3)
    start, grads = random.standard_normal(23), random.standard_normal((STEPS, 23))
    grads[4:6, :5] = 0.0
    for step, (got, want) in enumerate(zip(ours(rule, start, grads), paper(start, grads), strict=True), 1):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14, err_msg=f"step {step}")


def test_ftrl_gives_zeros_that_are_positive() -> None:
    *_, w = ours(optim.FTRL(0.1, l1=100.0), np.ones(7), np.ones((3, 7)))
    assert not w.any()
    assert not np.signbit(w).any()


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda c: f"{c['optimizer']}-{len(c['options'])}")
def test_rule_is_pytorchs(case: dict[str, Any]) -> None:
    rule = make(case["optimizer"], **case["options"])
    start, grads = np.array(REFERENCE["start"]), np.array(REFERENCE["grads"])
    for step, (got, want) in enumerate(zip(ours(rule, start, grads), case["values"], strict=True), 1):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14, err_msg=f"step {step}")


def test_pytorch_is_asked_for_every_rule_that_it_has() -> None:
    assert {c["optimizer"] for c in REFERENCE["cases"]} == set(optim.OPTIMIZERS) - {"lion", "ftrl", "add", "rowadagrad"}
