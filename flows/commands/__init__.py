"""Commands beside the run: check and clean."""
