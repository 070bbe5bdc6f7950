"""The result of a sweep: table, report, figures."""
