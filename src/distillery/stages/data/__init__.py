"""Stage 'data': splits, preprocessing, encoded rows, and the transfer set that students are shown."""
