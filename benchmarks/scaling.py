"""How a cost grows with the context: fitted to what was measured, and what follows for lengths that were not.

A cost of T tokens is a + bT + cT^2 with nothing negative, for no part of the work is. Coefficients are in this order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

Coefficients = tuple[float, ...]


def fit(lengths: Sequence[int], costs: Sequence[float], degree: int) -> Coefficients | None:
    """Non-negative least squares of the relative errors: a stopwatch is off by a share of what it shows.

    Every set of coefficients that may be other than zero is solved for; the best without a negative one is it.

    Returns
    -------
    `degree` + 1 coefficients, or None for fewer measurements than coefficients, or a cost of nothing.
    """
    if len(lengths) <= degree or min(costs) <= 0:
        return None
    unit = max(lengths)  # powers of 32,768 beside ones would cost digits
    powers = np.power.outer(np.array(lengths) / unit, np.arange(degree + 1)) / np.array(costs)[:, None]
    best, smallest = None, np.inf
    for size in range(1, degree + 2):
        for chosen in map(list, combinations(range(degree + 1), size)):
            solved = np.linalg.lstsq(powers[:, chosen], np.ones(len(lengths)), rcond=None)[0]
            error = float(((powers[:, chosen] @ solved - 1) ** 2).sum())
            if (solved >= 0).all() and error < smallest:
                best, smallest = dict(zip(chosen, solved.tolist())), error
    assert best is not None  # costs are positive, and so is the best constant
    return tuple(best.get(power, 0.0) / unit**power for power in range(degree + 1))


def predict(coefficients: Coefficients, length: float) -> float:
    return sum(coefficient * length**power for power, coefficient in enumerate(coefficients))


def worst_error(coefficients: Coefficients, lengths: Sequence[int], costs: Sequence[float]) -> float:
    """The largest relative distance of a measurement from the fit."""
    return max(abs(predict(coefficients, length) / cost - 1) for length, cost in zip(lengths, costs))


def break_even(one: Coefficients, other: Coefficients) -> float | None:
    """The length from which on `one` costs more than `other`; 0 if at every one, None if there is no such length."""
    size = max(len(one), len(other))
    padded = [np.pad(np.array(coefficients), (0, size - len(coefficients))) for coefficients in (one, other)]
    difference = np.trim_zeros(padded[0] - padded[1], "b")
    if not len(difference) or difference[-1] < 0:
        return None
    roots = np.roots(difference[::-1])
    crossings = roots.real[(abs(roots.imag) < 1e-9 * abs(roots)) & (roots.real > 0)]
    return float(crossings.max(initial=0.0))
