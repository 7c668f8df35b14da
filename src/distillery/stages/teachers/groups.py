"""Which teachers train together: copies of one member."""

from __future__ import annotations

from distillery.config.experiment import Teacher, Teachers
from distillery.stages.data.dataset import Dataset
from distillery.store import Handle
from distillery.training.stack_size import stack_size


def in_one_go(config: Teachers, data: Handle, device: str = "cpu") -> list[tuple[list[str], Teacher]]:
    """(names, member) of teachers that train in one go: copies of a member, as many as its `stack_size`."""
    spec, groups = Dataset(data).spec, []
    for member in config.members:
        names = [name for name, m, _ in config.each() if m is member]
        size = stack_size(member, config.recipe_of(member), spec, device)
        groups += [(names[start : start + size], member) for start in range(0, len(names), size)]
    return groups
