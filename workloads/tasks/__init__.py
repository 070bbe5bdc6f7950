"""The tasks that come with the package, one a file; the file ``image_classification.py`` is ``image-classification``."""
