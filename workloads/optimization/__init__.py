"""The optimizer and the schedule of its learning rate: their config, and what they are made of."""
