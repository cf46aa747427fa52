"""Constitutional AI / RLAIF data pipeline."""

__version__ = "0.1.0"
