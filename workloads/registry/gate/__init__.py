"""The gate: whether the model of a run may replace a version of a model, decided on rows that neither has learnt from."""
