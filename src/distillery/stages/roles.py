"""What a model is in the chain."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What a model is in the chain.

    A plain baseline is the student's network trained on labels alone with the student's own recipe; a tuned baseline
    is trained on labels alone with a recipe that was searched for that.
    """

    TEACHER = "teacher"
    ENSEMBLE = "ensemble"
    PLAIN = "plain_baseline"
    TUNED = "tuned_baseline"
    STUDENT = "student"

    @property
    def words(self) -> str:
        """The role in a sentence."""
        return self.value.replace("_", " ")
