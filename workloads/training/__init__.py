"""The training loop on one worker; it does not know Ray."""
