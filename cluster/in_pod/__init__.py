"""Programs that run in pods beside Ray; standard library only."""
