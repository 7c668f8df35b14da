"""Soft losses. One file here = one loss that a config can name.

A soft loss is a function ``(student_logits [B, C], teacher_logits [B, C], labels [B], temperature, **options) ->
scalar``, the mean over the batch. Its gradient reaches the student alone. The temperature is a float above 0 or a
tensor with one element; labels are valid class ids. The hard cross-entropy is not part of it: the objective is
``alpha * soft + (1 - alpha) * CE``, so that a weight w that a paper gives its soft term beside ``1 * CE`` is
``alpha = w / (1 + w)`` here.

Traits: ``min_classes`` (2 where absent) with ``dead``, what is lost with fewer classes; ``uses_temperature`` (true
where absent).
"""

from typing import Annotated

from pydantic import Field

from distillery.registry import Registry

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
LOSSES = Registry("loss", "distillery.losses")
