"""The tasks of the chain: each opens a tracked run, calls one library function and returns its result."""
