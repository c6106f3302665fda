"""Which grants and limits a process that comes in a file goes on with.

A file says what its process was granted. If this user wrote it on this machine, that was granted by him. A
file from elsewhere may say anything, so what it asks for of this machine is granted anew, by who resumes it,
or is an error that names it. What travels by value comes with the process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sojourn.model.errors import GrantError, LimitError
from sojourn.model.grants import DirectoryGrant
from sojourn.model.limits import LIMITS, Limits

from .requests import LaunchRequest


def bind_again(
    request: LaunchRequest,
    name: str,
    *,
    known: bool,
    grants: Sequence[DirectoryGrant] = (),
    limits: Mapping[str, int | float] | None = None,
) -> LaunchRequest:
    """The request to go on with.

    Args:
        request: what the file says.
        name: of the file, for people.
        known: whether this user wrote it on this machine.
        grants: what is granted here, each in the place of the one with the same guest path.
        limits: those that were named here.

    Raises:
        GrantError: it wants a directory that was not granted here, or was granted one that it does not want.
        LimitError: it wants more than what a process gets by default, and that was not named here.
    """
    here = {grant.place: grant for grant in grants}
    wanted = {grant.place: grant for grant in request.directories}
    for place in here.keys() - wanted.keys():
        raise GrantError(f"the process in {name} does not know {place}", _hint(name, request.directories))
    for place, grant in here.items():
        if grant.writable != wanted[place].writable:
            raise GrantError(f"{place} was granted to it in another form", _hint(name, request.directories))
    missing = [grant for place, grant in wanted.items() if place not in here]
    if missing and not known:
        asked = ", ".join(f"{grant.path} as {grant.place}" for grant in missing)
        raise GrantError(f"{name} comes from elsewhere, and wants {asked}", _hint(name, missing))
    chosen = {**vars(request.limits), **(limits or {})}
    if not known:
        _check_limits(chosen, limits or {}, name)
    directories = tuple(
        replace(here.get(grant.place, grant), guest_path=grant.guest_path) for grant in request.directories
    )
    return replace(request, directories=directories, limits=Limits(**chosen))


def _check_limits(chosen: Mapping[str, int | float], named: Mapping[str, int | float], name: str) -> None:
    usual = vars(Limits())
    for limit, value in chosen.items():
        if limit not in named and value > usual[limit]:
            spec = LIMITS[limit]
            raise LimitError(
                f"{name} comes from elsewhere, and wants {spec.amount(value)} of {limit}; "
                f"a process here gets {spec.amount(usual[limit])}",
                f"Try: {spec.flag} {value:g}, if it shall have that",
            )


def _hint(name: str, grants: Sequence[DirectoryGrant]) -> str:
    options = [
        f"--grant dir:{grant.path}={grant.guest_path}{':rw' if grant.writable else ''}" for grant in grants
    ]
    return f"Try: sojourn resume {' '.join(options)} {name}" if options else "Try: without --grant"
