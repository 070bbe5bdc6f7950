"""What the values of a table's cells are: texts, numbers, dates and words read by Arrow, a column at a time."""
