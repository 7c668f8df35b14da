"""Every setting of an experiment, with its default and its meaning."""
