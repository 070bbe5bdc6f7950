"""Many runs at once: search spaces and sweeps move in here."""
