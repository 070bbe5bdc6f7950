"""The run folder: what is written there, and what is read and computed from it."""
