"""Intake: one batch of records becomes rows in the worker and letters for what is bad, and is counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from service.ingest.contract import DeadLetter, Gap, Record, RecordBatch, Unplaced
from service.ingest.decode import Decoded, Decoder, make_letter
from service.pipeline.worker import Refusal, Worker
from service.settings import IngestSettings


class Intake:
    """Decodes, gates and counts. The tallies are part of the checkpoint: a restart counts nothing twice."""

    def __init__(
        self, decoder: Decoder, worker: Worker, settings: IngestSettings, resume: dict[str, Any] | None
    ) -> None:
        self._decoder = decoder
        self._worker = worker
        self._value_bytes_max = settings.dead_letter.value_bytes_max
        self._label_sets_unused_max = settings.label_sets_unused_max
        self._label_sets_used = 0
        saved = resume or {}
        self.outcomes: Counter[str] = Counter(saved.get("outcomes", {}))
        self.letters_by_reason: Counter[str] = Counter(saved.get("letters_by_reason", {}))

    def note_gap(self, gap: Gap) -> None:
        """Count a stretch that the log no longer had: it cannot be read, and must not pass unseen."""
        self.outcomes["data_gaps"] += 1
        self.outcomes["data_gap_records"] += gap.next_offset - gap.first_offset

    def decode(self, batch: RecordBatch) -> Decoded:
        """Decode a batch: the one thing here that may happen on another thread, ahead of `take`."""
        return self._decoder.decode(batch)

    def take(self, batch: RecordBatch, decoded: Decoded) -> list[DeadLetter]:
        """Take in a batch; return a letter for all that had to be left out, by offset, the unreadable before a record."""
        refusals = self._worker.ingest(decoded.batch)
        lost = [letter for letter in decoded.letters if letter.reason == "corrupt_batch"]
        lost += [self._letter_of_unplaced(batch, unplaced) for unplaced in batch.unplaced]
        letters = [letter for letter in decoded.letters if letter.reason != "corrupt_batch"]
        outcomes = Counter(decoded.outcomes)
        outcomes["rejected"] += len(batch.unplaced)
        outcomes["rows"] += len(decoded.batch) - len(refusals)
        if refusals:
            letters = self._with_refusals(batch, decoded.batch.offset, letters, refusals, outcomes)
        if lost:
            letters = sorted([*lost, *letters], key=lambda letter: letter.offset)
        self.outcomes.update(outcomes)
        self.letters_by_reason.update(letter.reason for letter in letters)
        return letters

    def _letter_of_unplaced(self, batch: RecordBatch, unplaced: Unplaced) -> DeadLetter:
        return make_letter(
            Record(unplaced.offset, -1, None, unplaced.value),
            batch.topic,
            batch.partition,
            reason="malformed",
            detail=unplaced.detail,
            count=1,
            value_bytes_max=self._value_bytes_max,
        )

    def _with_refusals(
        self,
        batch: RecordBatch,
        row_offset: np.ndarray[Any, np.dtype[np.int64]],
        letters: Sequence[DeadLetter],
        refusals: Sequence[Refusal],
        outcomes: Counter[str],
    ) -> list[DeadLetter]:
        """Add the rows that the worker refused: to the record's letter if it has one, else as a new one."""
        by_offset: dict[int, list[Refusal]] = defaultdict(list)
        for refusal in refusals:
            by_offset[int(row_offset[refusal.row])].append(refusal)
        offsets, counts = np.unique(row_offset, return_counts=True)
        rows_of = dict(zip(offsets.tolist(), counts.tolist(), strict=True))
        written = {letter.offset: letter for letter in letters}
        records = {record.offset: record for record in batch.records}
        for offset, refused in by_offset.items():
            known = written.get(offset)
            if known is not None:
                written[offset] = replace(known, rejected_samples=known.rejected_samples + len(refused))
            else:
                written[offset] = make_letter(
                    records[offset],
                    batch.topic,
                    batch.partition,
                    reason=refused[0].reason,
                    detail=refused[0].detail,
                    count=len(refused),
                    value_bytes_max=self._value_bytes_max,
                )
            if len(refused) == rows_of[offset]:
                outcomes["accepted"] -= 1
                outcomes["rejected"] += 1
        return [written[offset] for offset in sorted(written)]

    def knows_too_many(self) -> bool:
        """Tell whether so many label sets were learned since the last look that some must be forgotten."""
        return self._worker.label_sets_known() > self._label_sets_used + self._label_sets_unused_max

    def forget_label_sets(self) -> None:
        """Forget the label sets that nothing needs; whatever was decoded must have been taken in."""
        used = self._worker.label_sets_used()
        self._decoder.forget_label_sets(used)
        self._worker.forget_label_sets(used)
        self._label_sets_used = self._worker.label_sets_known()

    def snapshot(self) -> dict[str, Any]:
        """Return the tallies as plain JSON."""
        return {
            "outcomes": dict(sorted(self.outcomes.items())),
            "letters_by_reason": dict(sorted(self.letters_by_reason.items())),
        }
