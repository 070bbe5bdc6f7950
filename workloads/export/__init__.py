"""Models of finished runs in formats that are used without Heliostat."""

SUMS = "SHA256SUMS"
"""The file of an export with the SHA-256 of each other file."""
