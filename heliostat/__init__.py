"""The hallway: the command line's front door, config loading, folders on any filesystem, errors."""

__version__ = "0.1.0"
