"""What a model costs: parameters, size, operations and latency, each measured in one way."""
