"""Servers that a run needs or starts, and what they are asked."""
