"""Stage 'search': an Optuna study over temperature, alpha and capacity."""
