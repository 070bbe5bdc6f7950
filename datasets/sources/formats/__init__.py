"""The formats of a table's files: csv in its dialects, JSON, Parquet. Each reads some files as batches of columns."""
