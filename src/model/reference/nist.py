#!/usr/bin/env python3
"""Checks nist.json: NIST's Statistical Reference Datasets for linear regression, all of them.

    https://www.itl.nist.gov/div898/strd/lls/lls.shtml

Solves every problem in exact rational arithmetic from the decimal data, and compares with the certified numbers in the
file, digit by digit: so no digit of data or certificate can be mistyped unseen. Needs nothing but Python.
"""
import json
from decimal import Decimal, getcontext
from fractions import Fraction
from pathlib import Path

getcontext().prec = 60


def root(value):
    return (Decimal(value.numerator) / Decimal(value.denominator)).sqrt()


def solve(rows, y):
    """Coefficients and (X'X)^-1, exactly."""
    p = len(rows[0])
    normal = [[sum(r[i] * r[j] for r in rows) for j in range(p)] + [Fraction(int(i == j)) for j in range(p)]
              for i in range(p)]
    for i in range(p):
        pivot = next(k for k in range(i, p) if normal[k][i] != 0)
        normal[i], normal[pivot] = normal[pivot], normal[i]
        normal[i] = [v / normal[i][i] for v in normal[i]]
        for k in range(p):
            if k != i:
                normal[k] = [a - normal[k][i] * b for a, b in zip(normal[k], normal[i])]
    inverse = [row[p:] for row in normal]
    right = [sum(r[i] * t for r, t in zip(rows, y)) for i in range(p)]
    return [sum(inverse[i][j] * right[j] for j in range(p)) for i in range(p)], inverse


def same(certified, exact):
    """To 15 significant digits, half a unit of the last one."""
    certified = Decimal(certified)
    if exact == 0:
        return certified == 0
    return abs(certified - exact) <= abs(exact) * Decimal("1e-14")


for problem in json.loads(Path(__file__).with_name("nist.json").read_text()):
    y = [Fraction(v) for v in problem["y"]]
    x = [[Fraction(v) for v in row] for row in problem["x"]]
    if problem["degree"]:
        x = [[row[0] ** k for k in range(1, problem["degree"] + 1)] for row in x]
    rows = [[Fraction(1)] + row if problem["intercept"] else row for row in x]
    estimates, inverse = solve(rows, y)
    left = sum((t - sum(b * v for b, v in zip(estimates, r))) ** 2 for t, r in zip(y, rows))
    freedom = len(y) - len(rows[0])
    variance = left / freedom
    centre = sum(y) / len(y) if problem["intercept"] else 0
    total = sum((t - centre) ** 2 for t in y)
    decimal = lambda v: Decimal(v.numerator) / Decimal(v.denominator)
    for at, (estimate, deviation) in enumerate(zip(problem["estimates"], problem["standard_errors"])):
        assert same(estimate, decimal(estimates[at])), (problem["name"], at, estimate, decimal(estimates[at]))
        exact = root(variance * inverse[at][at])
        assert same(deviation, exact), (problem["name"], at, deviation, exact)
    assert same(problem["residual_standard_error"], root(variance)), (problem["name"], root(variance))
    assert same(problem["r2"], decimal(1 - left / total)), (problem["name"], decimal(1 - left / total))
    print(problem["name"], "holds")
