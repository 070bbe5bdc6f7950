"""What a sweep found: its table, its report, its figures."""
