"""Programs that run in pods beside Ray; standard library only.

The pods get them as files of a ConfigMap, mounted as the package ``in_pod``, because no image has Heliostat in it: they import
each other relatively, and nothing else of ours.
"""
