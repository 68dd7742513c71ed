#!/usr/bin/env python3
"""Writes data.csv and expected.json: what statsmodels, scikit-learn and Spark MLlib say about the same rows.

    pip install numpy scikit-learn statsmodels pyspark
    python generate.py

The tests compare with the files as they are; run this only to add a case. Made with the versions that stand in
expected.json.
"""
import json

import numpy as np
import sklearn
import statsmodels
import statsmodels.api as sm
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, Ridge
from statsmodels.stats.outliers_influence import variance_inflation_factor

random = np.random.default_rng(20260101)
n = 120
x = np.column_stack([
    random.normal(40_000, 9_000, n),
    random.integers(100, 8_000, n).astype(float),
    random.normal(0, 1, n),
    random.normal(2e-6, 3e-7, n),
])
x[:, 2] += (x[:, 0] - 40_000) / 9_000
y = 150 + 0.9 * x[:, 0] + 0.5 * x[:, 1] - 800 * x[:, 2] + 2e9 * x[:, 3] + random.normal(0, 1_500, n)
weight = np.round(random.uniform(0.1, 3.0, n), 3)
table = np.column_stack([x, y, weight])
table = np.array([[float(repr(float(v))) for v in row] for row in table])
names = ["x1", "x2", "x3", "x4", "y", "weight"]
with open("data.csv", "w") as file:
    file.write(",".join(names) + "\n")
    for row in table:
        file.write(",".join(repr(float(v)) for v in row) + "\n")


def floats(values):
    return [float(v) for v in values]


def ols(weights, intercept, confidence):
    design = sm.add_constant(x) if intercept else x
    fit = sm.WLS(y, design, weights=weights).fit() if weights is not None else sm.OLS(y, design).fit()
    new = design[:3]
    predicted = sm.OLS(y, design).fit().get_prediction(new) if weights is None else None
    case = {
        "weighted": weights is not None,
        "intercept": intercept,
        "confidence": confidence,
        "params": floats(fit.params),
        "standard_errors": floats(fit.bse),
        "t": floats(fit.tvalues),
        "p": floats(fit.pvalues),
        "low": floats(fit.conf_int(1 - confidence)[:, 0]),
        "high": floats(fit.conf_int(1 - confidence)[:, 1]),
        "r2": float(fit.rsquared),
        "adjusted_r2": float(fit.rsquared_adj),
        "f": float(fit.fvalue),
        "f_p": float(fit.f_pvalue),
        "residual_standard_error": float(np.sqrt(fit.scale)),
        "covariance": floats(fit.cov_params().ravel()),
    }
    if predicted is not None:
        case["prediction_low"] = floats(predicted.conf_int(obs=True, alpha=1 - confidence)[:, 0])
        case["prediction_high"] = floats(predicted.conf_int(obs=True, alpha=1 - confidence)[:, 1])
        case["mean_low"] = floats(predicted.conf_int(obs=False, alpha=1 - confidence)[:, 0])
    if intercept and weights is None:
        case["vif"] = floats(variance_inflation_factor(design, j) for j in range(1, design.shape[1]))
        residuals = fit.resid
        case["residuals"] = floats(np.quantile(residuals, [0, 0.25, 0.5, 0.75, 1]))
        case["mae"] = float(np.mean(np.abs(residuals)))
        case["mape"] = float(np.mean(np.abs(residuals / y)))
        case["durbin_watson"] = float(sm.stats.durbin_watson(residuals))
    return case


def scikit():
    """On standardised columns, where its penalties mean the same as ours without standardization."""
    scaled = (x - x.mean(0)) / x.std(0)
    cases = []
    for name, model in [
        ("ols", LinearRegression()),
        # Ridge's penalty is alpha * |b|^2 beside the plain sum of squares: n * regParam / 1.
        ("ridge", Ridge(alpha=n * 0.3, solver="cholesky")),
        ("lasso", Lasso(alpha=200.0, tol=1e-14, max_iter=1_000_000)),
        ("elastic net", ElasticNet(alpha=0.7, l1_ratio=0.4, tol=1e-14, max_iter=1_000_000)),
    ]:
        model.fit(scaled, y)
        cases.append({"name": name, "coefficients": floats(model.coef_), "intercept": float(model.intercept_)})
    return cases


def spark():
    from pyspark.ml.feature import VectorAssembler
    from pyspark.ml.regression import LinearRegression as SparkRegression
    from pyspark.sql import SparkSession

    session = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    frame = session.createDataFrame([tuple(floats(row)) for row in table], names)
    frame = VectorAssembler(inputCols=names[:4], outputCol="features").transform(frame)
    cases = []
    for weighted in (False, True):
        for intercept in (True, False):
            for standardization in (True, False):
                for reg, alpha in [(0.0, 0.0), (0.5, 0.0), (900.0, 0.0), (500.0, 1.0), (700.0, 0.3)]:
                    for solver in ("auto", "l-bfgs"):
                        regression = SparkRegression(
                            labelCol="y", regParam=reg, elasticNetParam=alpha, standardization=standardization,
                            fitIntercept=intercept, tol=1e-12, maxIter=1_000, solver=solver)
                        if weighted:
                            regression = regression.setWeightCol("weight")
                        model = regression.fit(frame)
                        cases.append({
                            "weighted": weighted, "intercept": intercept, "standardization": standardization,
                            "reg_param": reg, "elastic_net_param": alpha, "solver": solver,
                            "coefficients": floats(model.coefficients), "fitted_intercept": float(model.intercept),
                        })
    return session.version, cases


version, spark_cases = spark()
expected = {
    "versions": {"numpy": np.__version__, "statsmodels": statsmodels.__version__,
                 "scikit-learn": sklearn.__version__, "spark": version},
    "statsmodels": [ols(w, i, c) for w, i, c in
                    [(None, True, 0.95), (None, True, 0.99), (None, False, 0.95), (weight, True, 0.9),
                     (weight, False, 0.95)]],
    "scikit-learn": scikit(),
    "spark": spark_cases,
}
with open("expected.json", "w") as file:
    json.dump(expected, file, indent=1)
    file.write("\n")
