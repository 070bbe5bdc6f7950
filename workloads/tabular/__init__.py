"""What the tasks of tables share: the parts of their models, and their metrics."""
