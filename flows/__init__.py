"""Prefect flows: one readable file a stage, and the pipeline that joins them.

Defaults for Prefect that must stand before it is imported; what the environment says goes first.
"""

import os

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")  # nothing is reported to anyone
os.environ.setdefault(
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180"
)  # a busy machine needs over 20
