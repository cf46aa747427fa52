"""What happens to long jobs, done to small ones on purpose: bounded, seeded, loopback only."""
