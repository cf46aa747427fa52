"""What a run may spend, what it has spent, and whether its rows and calls add up."""
