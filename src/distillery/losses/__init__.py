"""Soft losses. One file here = one loss that a config can name.

A soft loss is a function ``(student_logits [B, C], teacher_logits [B, C], labels [B], temperature, **options) ->
scalar``. The hard cross-entropy is not part of it: the objective is ``alpha * soft + (1 - alpha) * CE``.
"""

from distillery.registry import Registry

LOSSES = Registry("loss", "distillery.losses")
