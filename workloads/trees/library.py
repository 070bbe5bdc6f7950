"""LightGBM, which is an extra, and what its Python package does not offer of its C API (lightgbm 4.7).

LightGBM rather than XGBoost: a wheel of 3.5 MB instead of 131 MB and NCCL, and trees that are grown together can exchange their
histograms by functions of ours, so by the process group that the workers have already: no port that others can reach, no
tracker, and the timeouts and error messages of all other collectives.
"""

import torch  # noqa: F401  # first: its OpenMP is then LightGBM's too, which a slim image does not have

from heliostat.errors import UserError

try:
    import lightgbm
    from lightgbm.basic import _LIB, _safe_call  # type: ignore[attr-defined]  # there is no public name for it
except ImportError:
    raise UserError(
        "gradient boosting needs LightGBM, which is not installed",
        "pip install 'heliostat[trees]', or pip install lightgbm; on a cluster, put it into the image, "
        "or write requirements: [lightgbm]",
    ) from None

__all__ = ["Booster", "api", "check", "lightgbm", "put_before"]

Booster = lightgbm.Booster
check = _safe_call
"""Raises LightGBM's last error if a call of its C API has failed."""
api = _LIB
"""LightGBM's C API: https://github.com/microsoft/LightGBM/blob/master/include/LightGBM/c_api.h."""


def put_before(booster: Booster, first: Booster) -> None:
    """Puts copies of the trees of ``first`` before those of a booster, as LightGBM does when it continues a model."""
    check(api.LGBM_BoosterMerge(booster._handle, first._handle))
