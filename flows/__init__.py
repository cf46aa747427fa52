"""Prefect flows: one readable file a stage, and the pipeline that joins them."""
