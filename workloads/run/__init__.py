"""The run folder: what outlives the machines, and what is read from it."""
