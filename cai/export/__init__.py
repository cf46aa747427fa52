"""What leaves a run: the dataset that its own trainers take, and the formats that other people's tools read."""
