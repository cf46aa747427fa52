"""Training: exported rows and a base model in, a loadable model folder out, by TRL in its own process."""
