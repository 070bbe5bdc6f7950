"""The registry of models, ``STORAGE/models/NAME/``: versions that do not change, aliases that move, and who moved them why.

``versions/NUMBER-ORIGIN/`` has ``model/`` (what ``heliostat model export`` writes), ``version.json`` and the ``config.yaml`` of
the run; ``log/NUMBER-ID.json`` is an entry for each change, with the state after it. A version exists when an entry has it.
"""
