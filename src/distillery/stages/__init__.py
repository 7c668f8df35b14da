"""The stages of the chain, one folder for each, in this order: every folder imports earlier ones alone.

data -> teachers -> logits -> ensemble -> measurement -> distillation -> search -> students -> evaluation -> export
-> promotion -> report
"""
