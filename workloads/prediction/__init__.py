"""Predictions for raw rows: what rows may be, what the model's outputs become, and files of rows in parts."""
