"""What the pipeline costs, as ratios to bare clients and to the engine's own loop, measured in one run."""
