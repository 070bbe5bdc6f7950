"""The page of ``heliostat runs open``: what it knows of a storage, and the server that shows it."""
