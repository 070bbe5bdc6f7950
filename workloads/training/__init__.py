"""The training loop of one worker; it uses torch.distributed and the run folder, not Ray."""
