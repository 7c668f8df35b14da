"""What is shown on a terminal and in the log."""
