"""Notifications as signed JSON to any HTTPS endpoint, after Standard Webhooks 1.0.0 (see docs/webhook.md)."""

from __future__ import annotations

import base64
import binascii
import builtins
import datetime
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, SecretStr, model_validator
from standardwebhooks import Webhook

from service.alerting.contract import Delivery, Notification, Outcome
from service.alerting.guard import HttpParams, check_url
from service.alerting.payload import encode_payload
from service.alerting.preflight import preflight
from service.alerting.secret import Secret, one_of
from service.alerting.transport import Poster
from service.clock import Clock
from service.errors import Unavailable
from service.settings import SEVERAL_LINES, Section

SECRETS_MAX = 2
# The standard's bounds of a secret.
_KEY_BYTES_MIN, _KEY_BYTES_MAX = 24, 64


class WebhookParams(HttpParams):
    """A receiver that takes signed JSON."""

    type: Literal["webhook"]
    """Kind of receiver."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    """Name by which routes refer to it."""
    url_file: str = ""
    """File that holds the URL and nothing else; it is read again for each message."""
    url: SecretStr = SecretStr("")
    """The URL, from the environment only, since URLs often hold a secret. In files use url_file."""
    secret_file: str = ""
    """File with the signing secret (whsec_…), or with two while they are rotated, one per line; both then sign."""
    secret: Annotated[SecretStr, SEVERAL_LINES] = SecretStr("")
    """The same from the environment only. In files use secret_file."""

    @model_validator(mode="after")
    def _one_of_each(self) -> WebhookParams:
        url = one_of("url", self.url, self.url_file)
        secret = one_of("secret", self.secret, self.secret_file)
        if url or secret:
            raise ValueError("; ".join(filter(None, (url, secret))))
        return self


class WebhookNotifier:
    """Posts each notification as one signed message; its id is the same in every attempt."""

    type: ClassVar[str] = "webhook"
    rate_per_s_max: ClassVar[float] = 10.0
    params_type: ClassVar[builtins.type[Section]] = WebhookParams  # `type` is taken, above

    def __init__(self, url: Secret, secret: Secret, page_url: str, poster: Poster, clock: Clock) -> None:
        self._url = url
        self._secret = secret
        self._page_url = page_url
        self._poster = poster
        self._clock = clock

    @classmethod
    def from_params(cls, params: WebhookParams, clock: Clock, page_url: str) -> Self:
        """Build it; ConfigError if URL, secret or ca_file cannot be read or could never be used."""
        url = Secret("url", params.url, params.url_file)
        secret = Secret("secret", params.secret, params.secret_file)
        preflight(
            params.name,
            {
                "ca_file": lambda: Poster(params, clock),
                url.key: lambda: check_url(params, url.read()),
                secret.key: lambda: _signers(secret),
            },
        )
        return cls(url, secret, page_url, Poster(params, clock), clock)

    def send(self, notification: Notification) -> Delivery:
        """Sign with every active secret and post once."""
        try:
            url, signers = self._url.read(), _signers(self._secret)
        except Unavailable as error:
            return Delivery(Outcome.RETRY, str(error))
        body = encode_payload(notification, self._page_url)
        # Aware and in UTC: the library replaces the zone instead of converting it.
        attempt = datetime.datetime.fromtimestamp(self._clock.now_ns() // 10**9, datetime.UTC)
        name = notification.notification_id
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": name,
            "webhook-id": name,
            "webhook-timestamp": str(int(attempt.timestamp())),
            "webhook-signature": " ".join(s.sign(name, attempt, body.decode()) for s in signers),
        }
        return self._poster.post(url, body, headers).delivery


def _signers(secret: Secret) -> list[Webhook]:
    """Return one signer per secret; Unavailable (somebody may be rewriting the file) if there is anything else."""
    texts = secret.read().split()
    if len(texts) > SECRETS_MAX:
        raise Unavailable(f"{secret.key}: expected at most {SECRETS_MAX} secrets, got {len(texts)}")
    return [_signer(text, secret.key) for text in texts]


def _signer(text: str, key: str) -> Webhook:
    try:
        decoded = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not text.startswith("whsec_") or not _KEY_BYTES_MIN <= len(decoded) <= _KEY_BYTES_MAX:
        raise Unavailable(f"{key}: expected whsec_ and the base64 of {_KEY_BYTES_MIN} to {_KEY_BYTES_MAX} random bytes")
    return Webhook(decoded)
