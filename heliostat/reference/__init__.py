"""What is generated from the types of the configs and from the commands: JSON schemas for editors, docs/reference, and the
picture of the architecture.

``python -m heliostat.reference`` writes both; `make docs` runs it, and a test compares.
"""
