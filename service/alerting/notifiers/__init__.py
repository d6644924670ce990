"""NOTIFIERS: `type` in config.yaml → class. A new destination is a file here and a line below."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, Self

from service.alerting.contract import Notifier
from service.alerting.notifiers.slack import SlackNotifier
from service.alerting.notifiers.stdout import StdoutNotifier
from service.alerting.notifiers.webhook import WebhookNotifier
from service.clock import Clock
from service.settings import Section


class ConfiguredNotifier(Notifier, Protocol):
    """A Notifier that is built from its part of the configuration."""

    params_type: ClassVar[type[Section]]

    @classmethod
    def from_params(cls, params: Any, clock: Clock, page_url: str) -> Self:
        """Build it; `params` is a `params_type`, `page_url` may be empty. ConfigError if it could never deliver."""
        ...


NOTIFIERS: dict[str, type[ConfiguredNotifier]] = {
    StdoutNotifier.type: StdoutNotifier,
    SlackNotifier.type: SlackNotifier,
    WebhookNotifier.type: WebhookNotifier,
}
