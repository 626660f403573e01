"""Runs with known curves, written without a model."""

import json

import numpy as np

from medlens import store
from medlens.plan import Plan

FOLDS = 5


def write_run(folder, curves, *, folds=FOLDS, blocks=8, data="d1", claims=(), protocol="sound", variant="raw", name="phantom"):
    """curves: {"measure/tokens": fold values (folds, layers)}; a value is their mean, and without a fold the mean of the others.

    The jackknife of a mean is Student's own interval, so that rates of error are exactly those of the t distribution. A curve of
    one dimension has no folds. NaN is undefined.
    """
    rows, left_out = [], []
    for of, values in curves.items():
        values = np.asarray(values, dtype=float)
        measure, tokens = of.split("/")
        key = {"protocol": protocol, "measure": measure, "tokens": tokens, "group": "all", "variant": variant}
        for layer in range(values.shape[-1]):
            column = values[..., layer]
            note = "the rows do not vary" if np.isnan(column).any() else ""
            rows.append({**key, "layer": layer, "value": column.mean(), "low": None, "high": None, "n": 100, "note": note})
            if values.ndim == 2:
                left_out += [{**key, "layer": layer, "fold": k, "value": np.delete(column, k).mean()} for k in range(folds)]
    folder.mkdir(parents=True, exist_ok=True)
    store.write_table(folder, "rows", rows)
    store.write_table(folder, "left_out", left_out)
    plan = Plan(folds=folds, claims=tuple(claims)).as_dict()
    manifest = {
        "medlens": "0",
        "plan": plan,
        "model": {"name": name, "blocks": blocks},
        "data": {"name": "drawn", "fingerprint": data},
    }
    store.write_manifest(folder, json.loads(json.dumps(manifest)))
    return store.open_run(folder)
