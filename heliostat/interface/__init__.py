"""The Python interface, what ``from heliostat import ...`` has: the commands as functions, and runs as objects."""
