"""Stage 'teachers': trains each member, or takes what was trained elsewhere."""
