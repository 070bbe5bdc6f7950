"""What is generated from the types of the configs and from the commands: JSON schemas for editors, and docs/reference.

``python -m heliostat.reference`` writes both; `make docs` runs it, and a test compares.
"""
