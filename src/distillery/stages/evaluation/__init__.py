"""Stage 'evaluation': every model on the test rows, with intervals and costs."""
