"""How raw labels are read: what the field table says of a context, and what of it labels of certain names can touch."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

HOLDER_FIELDS = ("namespace", "pod", "container")


class Context(NamedTuple):
    """How the labels of some measurement are read."""

    aliases: Mapping[str, tuple[str, ...]]
    holders: tuple[Mapping[str, Any], ...]
    lone_gpu_is_uuid: bool


class Reading(NamedTuple):
    """A context without what labels of certain names cannot have: names as sent and in lower case, and as in Context."""

    names: tuple[tuple[str, str], ...]
    aliases: Mapping[str, tuple[str, ...]]
    holders: tuple[Mapping[str, Any], ...]
    last_resort: Mapping[str, tuple[str, ...]]
    lone_gpu_is_uuid: bool


def reading_of(context: Context, last_resort: Mapping[str, tuple[str, ...]], names: tuple[str, ...]) -> Reading:
    """Return what is left of a context for labels of these names."""
    # Sorted: of two spellings of a name the same one always counts.
    lowered = tuple((name, name.lower()) for name in sorted(names))
    there = {low for _, low in lowered}
    holders = (family for family in context.holders if there.intersection(family[name] for name in HOLDER_FIELDS))
    aliases, resort = _those(context.aliases, there), _those(last_resort, there)
    return Reading(lowered, aliases, tuple(holders), resort, context.lone_gpu_is_uuid)


def _those(aliases: Mapping[str, tuple[str, ...]], there: set[str]) -> dict[str, tuple[str, ...]]:
    """Return the spellings that are there, of the fields that have any."""
    left = {field: tuple(name for name in names if name in there) for field, names in aliases.items()}
    return {field: names for field, names in left.items() if names}


def first_of(aliases: Mapping[str, tuple[str, ...]], folded: Mapping[str, str]) -> dict[str, str]:
    """Return each field's first spelling that is there."""
    found = {}
    for name, spellings in aliases.items():
        for spelling in spellings:
            if spelling in folded:
                found[name] = folded[spelling]
                break
    return found


def fits(patterns: Mapping[str, str], holder: Mapping[str, str]) -> bool:
    """Tell whether all shell patterns fit; "" fits a missing label."""
    return all(fnmatchcase(holder.get(name, ""), pattern) for name, pattern in patterns.items())
