"""The one training loop that teachers, baselines and students share."""
