"""Networks of tables: what they read of a dataset's signature and statistics, and the kinds of ``model:``."""
