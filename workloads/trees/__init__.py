"""Gradient boosting with LightGBM: the trees as a model, its training by rounds, the rows in LightGBM's own format."""
