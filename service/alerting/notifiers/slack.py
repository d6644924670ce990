"""Notifications as messages of a Slack incoming webhook.

Why plain_text everywhere: names come from telemetry, and in plain text a mention, a channel call or a disguised link is
just letters. The only markup is the link to our own page.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
from pydantic import Field, SecretStr, model_validator
from slack_sdk.models.blocks import (
    Block,
    ContextBlock,
    HeaderBlock,
    MarkdownTextObject,
    PlainTextObject,
    SectionBlock,
)

from service.alerting.contract import Delivery, Notification, Outcome
from service.alerting.guard import HttpParams, check_url
from service.alerting.preflight import preflight
from service.alerting.render import Message, left_out, render
from service.alerting.secret import Secret, one_of
from service.alerting.transport import Posted, Poster
from service.clock import Clock
from service.errors import Unavailable
from service.settings import Section

HEADER_CHARS_MAX = 150
SECTION_CHARS_MAX = 3000
BLOCKS_MAX = 50
# The sum over all blocks fails with msg_blocks_too_long somewhere above 13,200 (slackapi/bolt-js#2509).
MESSAGE_CHARS_MAX = 12_000
# What is kept free for the blocks after the list.
_TAIL_CHARS = 600
_ERROR_WORD = re.compile(rb"[a-z_]{1,50}")


class SlackParams(HttpParams):
    """A receiver that posts to a Slack incoming webhook (or to a server that speaks the same, such as Mattermost)."""

    type: Literal["slack"]
    """Kind of receiver."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    """Name by which routes refer to it."""
    url_file: str = ""
    """File that holds the webhook's URL and nothing else; it is read again for each message."""
    url: SecretStr = SecretStr("")
    """The URL, from the environment only: it is a secret. In files use url_file."""

    @model_validator(mode="after")
    def _one_url(self) -> SlackParams:
        problem = one_of("url", self.url, self.url_file)
        if problem:
            raise ValueError(problem)
        return self


class SlackNotifier:
    """Posts each notification as one message."""

    type: ClassVar[str] = "slack"
    # Slack's own limit per webhook; short bursts are tolerated, and more is answered with 429.
    rate_per_s_max: ClassVar[float] = 1.0
    params_type: ClassVar[builtins.type[Section]] = SlackParams  # `type` is taken, above

    def __init__(self, url: Secret, page_url: str, poster: Poster) -> None:
        self._url = url
        self._page_url = page_url
        self._poster = poster

    @classmethod
    def from_params(cls, params: SlackParams, clock: Clock, page_url: str) -> Self:
        """Build it; ConfigError if the URL or ca_file cannot be read or could never be used."""
        url = Secret("url", params.url, params.url_file)
        preflight(
            params.name,
            {
                "ca_file": lambda: Poster(params, clock),
                url.key: lambda: check_url(params, url.read()),
            },
        )
        return cls(url, page_url, Poster(params, clock))

    def send(self, notification: Notification) -> Delivery:
        """Post once. Slack names its reasons in one word, which goes into the detail."""
        try:
            url = self._url.read()
        except Unavailable as error:
            return Delivery(Outcome.RETRY, str(error))
        body = msgspec.json.encode(slack_message(render(notification), self._page_url))
        return _explained(self._poster.post(url, body, {"Content-Type": "application/json"}))


def slack_message(message: Message, page_url: str) -> dict[str, Any]:
    """Return the JSON of `message` within Slack's limits; lines that do not fit are counted instead."""
    mark = "\u2705 " if message.resolved else "\u26a0\ufe0f "
    blocks: list[Block] = [
        HeaderBlock(text=_plain(fit(mark + message.headline, HEADER_CHARS_MAX))),
        _section(message.totals),
    ]
    if message.action and not message.resolved:
        blocks.append(_section(f"What to do: {message.action}"))
    room = MESSAGE_CHARS_MAX - _TAIL_CHARS - sum(_size(block) for block in blocks)
    lists, unlisted = _lists(message.gpus, room, BLOCKS_MAX - len(blocks) - 2)
    blocks += lists
    tail = ", ".join(part for part in (left_out(unlisted), message.left_out) if part)
    if tail:
        blocks.append(ContextBlock(elements=[_plain(fit(tail, _TAIL_CHARS // 3))]))
    if page_url and len(escape(page_url)) <= _TAIL_CHARS // 2:
        link = MarkdownTextObject(text=f"<{escape(page_url)}|Open Skinflint>", verbatim=True)
        blocks.append(ContextBlock(elements=[link]))
    return {
        "text": fit(f"{mark}{message.headline}", SECTION_CHARS_MAX),
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": [block.to_dict() for block in blocks],
    }


def escape(text: str) -> str:
    """Escape the three characters with which Slack begins and ends everything special."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def fit(text: str, chars_max: int) -> str:
    """Return `text` escaped and, if need be, cut so that no more than `chars_max` UTF-16 units remain."""
    escaped = [escape(char) for char in text]
    if _units(escaped) <= chars_max:
        return "".join(escaped)
    left, kept = chars_max - 1, []
    for piece in escaped:
        left -= _units(piece)
        if left < 0:
            break
        kept.append(piece)
    return "".join(kept) + "…"


def _lists(lines: Iterable[str], room: int, blocks_max: int) -> tuple[list[Block], int]:
    """Pack lines into sections; return these and how many lines found no place."""
    packed: list[str] = []
    unlisted = 0
    for line in lines:
        entry = fit(f"• {line}", SECTION_CHARS_MAX)
        cost = _units(entry) + 1
        same = packed and _units(packed[-1]) + cost <= SECTION_CHARS_MAX
        if unlisted or cost > room or not (same or len(packed) < blocks_max):
            unlisted += 1
            continue
        room -= cost
        if same:
            packed[-1] += f"\n{entry}"
        else:
            packed.append(entry)
    return [SectionBlock(text=_plain(text)) for text in packed], unlisted


def _section(text: str) -> Block:
    return SectionBlock(text=_plain(fit(text, SECTION_CHARS_MAX)))


def _plain(escaped: str) -> PlainTextObject:
    # emoji=False: `:name:` stays as it is written.
    return PlainTextObject(text=escaped, emoji=False)


def _size(block: Block) -> int:
    text = getattr(block, "text", None)
    return _units(text.text) if text is not None else 0


def _units(text: str | list[str]) -> int:
    """Count UTF-16 units, the least favourable of the ways in which Slack might count."""
    return len("".join(text).encode("utf-16-le", "surrogatepass")) // 2


def _explained(posted: Posted) -> Delivery:
    delivery = posted.delivery
    if delivery.outcome is Outcome.DELIVERED or not _ERROR_WORD.fullmatch(posted.reply):
        return delivery
    kind = type(delivery)
    return kind(delivery.outcome, f"{delivery.detail} {posted.reply.decode()}", delivery.retry_after_s)
