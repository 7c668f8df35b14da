"""Stage 'ensemble': chooses the ensemble's weights on the validation rows."""
