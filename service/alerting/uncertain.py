"""What may have arrived already: the two marks with which an attempt whose answer was lost is carried on."""

from __future__ import annotations

from dataclasses import dataclass, fields

from service.alerting.contract import Delivery, Notification


@dataclass(frozen=True, slots=True)
class UncertainDelivery(Delivery):
    """A RETRY after the message had left: the receiver may hold it although no success came back."""


@dataclass(frozen=True, slots=True)
class PossibleRepeat(Notification):
    """The same notification, sent again after an attempt of which nobody knows whether it arrived."""


def possible_repeat(notification: Notification) -> PossibleRepeat:
    """Return `notification` with the mark; nothing else changes, the id least of all."""
    return PossibleRepeat(*(getattr(notification, field.name) for field in fields(Notification)))
