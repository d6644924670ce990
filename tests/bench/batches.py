"""Record batches made before they are needed: W1 at a steady rate, all but the time of production encoded."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence

import lz4.frame
import orjson
from crc32c import crc32c

from tests.bench.messages import SEED, native_reading
from tests.bench.works import START_MS, Steady

READINGS, READINGS_SUM_MAX = 8, 1_000_000  # of a GPU, in turns, so that none looks constant; fewer of a large fleet
_TIME = b"1732400000000"  # stands in each record until its round is made; event times have as many digits
_HEADER = struct.Struct(">qiibIhiqqqhii")
_HEAD_BYTES = _HEADER.size
_CRC_AT, _CHECKED_FROM, _TIMES_AT = 17, 21, 27
_LZ4 = 3
_PRODUCE, _PRODUCE_VERSION, _ACKS, _TIMEOUT_MS = 0, 7, 1, 30_000
Piece = list[bytearray]  # a batch for each partition


def rounds(load: Steady, pieces: int) -> Iterator[list[Piece]]:
    """Give each round of a load, cut into pieces, in the order of its GPUs."""
    records = _Records(load, pieces)
    for round_ in range(load.rounds):
        records.fall_idle(round_)
        time = b"%d" % (START_MS + round_ * load.step_s * 1000)
        yield [
            [_batch(*records.joined(round_, piece, p), time) for p in range(load.partitions)] for piece in range(pieces)
        ]


class _Records:
    """The encoded records of a round, by reading, piece and partition; those of a GPU that idles are put in their place."""

    def __init__(self, load: Steady, pieces: int) -> None:
        random_ = random.Random(SEED)
        self._load = load
        self._readings = max(2, min(READINGS, READINGS_SUM_MAX // load.gpus))
        self._records: dict[tuple[int, int, int], list[bytes]] = {}
        self._places: list[tuple[int, int, int]] = []  # of each GPU: piece, partition, number within
        self._joined: dict[tuple[int, int, int], bytes] = {}
        for reading in range(self._readings):
            for gpu in range(load.gpus):
                piece, partition = gpu * pieces // load.gpus, gpu % load.partitions
                these = self._records.setdefault((reading, piece, partition), [])
                if not reading:
                    self._places.append((piece, partition, len(these)))
                these.append(self._record(random_, gpu, len(these), idle=False))
        self._idle = {
            gpu: (from_, self._record(random_, gpu, self._places[gpu][2], idle=True))
            for gpu, from_ in load.falling.items()
        }

    def _record(self, random_: random.Random, gpu: int, number: int, *, idle: bool) -> bytes:
        name = self._load.gpu_name(gpu)
        value = b'{"ts":' + _TIME + b"," + orjson.dumps(native_reading(random_, gpu, name, idle))[1:]
        key = name.encode()
        body = b"\0\0" + _varint(number) + _varint(len(key)) + key + _varint(len(value)) + value + b"\0"
        return _varint(len(body)) + body

    def fall_idle(self, round_: int) -> None:
        """Exchange the records of GPUs that idle from this round on."""
        for gpu in [gpu for gpu, (from_, _) in self._idle.items() if from_ <= round_]:
            piece, partition, number = self._places[gpu]
            _, record = self._idle.pop(gpu)
            for reading in range(self._readings):
                self._records[reading, piece, partition][number] = record
                self._joined.pop((reading, piece, partition), None)

    def joined(self, round_: int, piece: int, partition: int) -> tuple[bytes, int]:
        """Return the bytes of a batch's records, and how many there are."""
        place = round_ % self._readings, piece, partition
        if place not in self._joined:
            self._joined[place] = b"".join(self._records.get(place, ()))
        return self._joined[place], len(self._records.get(place, ()))


def _varint(number: int) -> bytes:
    number <<= 1
    text = bytearray()
    while number >= 0x80:
        text.append(number & 0x7F | 0x80)
        number >>= 7
    text.append(number)
    return bytes(text)


def _batch(records: bytes, count: int, time: bytes) -> bytearray:
    """Return a batch of magic 2; brokers read only frames of independent blocks."""
    packed = lz4.frame.compress(records.replace(_TIME, time), block_linked=False, store_size=False)
    size = _HEAD_BYTES - 12 + len(packed)
    return bytearray(_HEADER.pack(0, size, -1, 2, 0, _LZ4, count - 1, 0, 0, -1, -1, -1, count) + packed)


def stamp(batch: bytearray, time_ms: int) -> None:
    """Give a batch the time of its records, and the checksum that follows from it."""
    struct.pack_into(">qq", batch, _TIMES_AT, time_ms, time_ms)
    struct.pack_into(">I", batch, _CRC_AT, crc32c(memoryview(batch)[_CHECKED_FROM:]))


def request(number: int, topic: str, piece: Sequence[bytearray]) -> list[bytes | bytearray]:
    """Return the parts of a produce request for all partitions of a topic."""
    name = topic.encode()
    head = struct.pack(">hhih", _PRODUCE, _PRODUCE_VERSION, number, -1) + struct.pack(">hhi", -1, _ACKS, _TIMEOUT_MS)
    head += struct.pack(">ih", 1, len(name)) + name + struct.pack(">i", len(piece))
    parts: list[bytes | bytearray] = [head]
    for partition, batch in enumerate(piece):
        parts += [struct.pack(">ii", partition, len(batch)), batch]
    return [struct.pack(">i", sum(map(len, parts))), *parts]


def check(response: bytes, topic: str) -> None:
    """Raise RuntimeError if a produce response says of any batch that it was refused."""
    at = 4 + 4 + 2 + len(topic.encode())
    (count,) = struct.unpack_from(">i", response, at)
    for partition in range(count):
        if code := struct.unpack_from(">h", response, at + 8 + 30 * partition)[0]:
            raise RuntimeError(f"the broker refused a batch: error {code}")
