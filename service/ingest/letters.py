"""Dead letters: what of a batch could not be used, as columns, and the line that each becomes."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from json.encoder import encode_basestring_ascii
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service.ingest.contract import ENTITIES_MAX, REASONS

# A record that there is no room for was read well: a fleet beyond fleet.entities_max is no flood of poison.
NOT_POISON = frozenset({REASONS[ENTITIES_MAX]})
DETAIL_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class Letters:
    """The dead letters of one batch, by offset: where each record lay, why it is here, and what it was.

    One letter a record, however many of its samples are bad. All columns have n rows. `place` int64[n] is the index among
    the `records` that the batch held, of which those that could not be read count where they lay; `reason` int8[n] is an
    index of REASONS; offset, rejected_samples and timestamp_ms are int64[n]. A value is the record's own bytes, not a copy:
    whoever keeps letters keeps the buffer of the whole batch.
    """

    topic: str
    partition: int
    records: int
    place: NDArray[np.int64]
    offset: NDArray[np.int64]
    reason: NDArray[np.int8]
    rejected_samples: NDArray[np.int64]
    timestamp_ms: NDArray[np.int64]
    detail: Sequence[str]
    value: Sequence[memoryview | bytes | None]

    def __len__(self) -> int:
        return len(self.offset)

    def poison(self) -> list[tuple[int, str]]:
        """Return place and reason of what the breaker counts."""
        counted = np.flatnonzero(self.reason != ENTITIES_MAX)
        reasons = [REASONS[i] for i in self.reason[counted].tolist()]
        return list(zip(self.place[counted].tolist(), reasons, strict=True))

    def lines(self, value_bytes_max: int) -> Iterator[str]:
        """Yield each letter as JSON in ASCII, without a newline: the same letter gives the same text.

        The value is cut at `value_bytes_max`, its hash is of the whole.
        """
        head = f'{{"topic":{encode_basestring_ascii(self.topic)},"partition":{self.partition},"offset":'
        columns = (self.offset, self.reason, self.rejected_samples, self.timestamp_ms)
        for offset, reason, samples, timestamp_ms, detail, value in zip(
            *(column.tolist() for column in columns), self.detail, self.value, strict=True
        ):
            if value is None:
                digest, kept = "", "null"
            else:
                digest = sha256(value).hexdigest()
                kept = f'"{b2a_base64(value[:value_bytes_max], newline=False).decode("ascii")}"'
            yield (
                f'{head}{offset},"reason":"{REASONS[reason]}","detail":{encode_basestring_ascii(_shortened(detail))},'
                f'"rejected_samples":{samples},"sha256":"{digest}","value_b64":{kept},"timestamp_ms":{timestamp_ms}}}'
            )


def _shortened(detail: str) -> str:
    return detail if len(detail) <= DETAIL_CHARS_MAX else detail[: DETAIL_CHARS_MAX - 1] + "…"


class Room(NamedTuple):
    """How much letters take up where they are kept, what was dropped to make room, and why reading should wait, if so."""

    used_bytes: int = 0
    bytes_max: int = 0  # 0: not limited by us
    dropped_letters: int = 0
    why_full: str = ""


class DeadLetters(Protocol):
    """Where rejected records go. A letter is durable once `flush` returned; only then may a checkpoint pass its offset."""

    def write(self, letters: Letters) -> None:
        """Take all the letters, in order, or none and raise Unavailable."""
        ...

    def room(self) -> Room:
        """Return what is left; at once, since it is asked in every round."""
        ...

    def flush(self) -> int:
        """Make all letters durable and return the position to resume from (bytes of files, 0 for a topic)."""
        ...

    def close(self) -> None:
        """Flush and leave."""
        ...
