"""Stage 'students': trains the final students and their baselines."""
