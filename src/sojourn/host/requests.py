"""What is asked of a host, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sojourn.model.grants import DirectoryGrant, EnvironmentGrant, Grant, SecretGrant
from sojourn.model.limits import Limits
from sojourn.model.priority import Priority
from sojourn.model.program import Program


@dataclass(frozen=True)
class LaunchRequest:
    """What a process shall be: a program, arguments, grants, limits, its share of the processors."""

    program: Program
    contents: Mapping[str, bytes]
    name: str
    args: tuple[str, ...] = ()
    directories: tuple[DirectoryGrant, ...] = ()
    environment: tuple[EnvironmentGrant, ...] = ()
    secrets: tuple[SecretGrant, ...] = ()
    limits: Limits = field(default_factory=Limits)
    use_image: bool = True
    priority: Priority = Priority.NORMAL

    def grants(self) -> list[dict[str, object]]:
        """The grants as they are recorded: a secret by its name only."""
        grants: tuple[Grant, ...] = (*self.directories, *self.environment, *self.secrets)
        return [grant.to_dict() for grant in grants]
