"""Intake: one batch of records becomes rows in the worker and letters for what is bad, and is counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from service.ingest.contract import REASONS, Gap, RecordBatch
from service.ingest.decode import Decoded, Decoder
from service.ingest.letters import Letters
from service.pipeline.refusals import letters_of
from service.pipeline.tenure import Tenure
from service.pipeline.worker import Worker
from service.settings import IngestSettings


class Intake:
    """Decodes, gates and counts. The tallies are part of the checkpoint: a restart counts nothing twice."""

    def __init__(
        self, decoder: Decoder, worker: Worker, settings: IngestSettings, resume: dict[str, Any] | None
    ) -> None:
        self._decoder = decoder
        self._worker = worker
        self._label_sets_unused_max = settings.label_sets_unused_max
        self._label_sets_used = 0
        saved = resume or {}
        self._tenure = Tenure(worker.label_sets_known())
        self.outcomes: Counter[str] = Counter(saved.get("outcomes", {}))
        self.letters_by_reason: Counter[str] = Counter(saved.get("letters_by_reason", {}))

    def note_gap(self, gap: Gap) -> None:
        """Count a stretch that the log no longer had: it cannot be read, and must not pass unseen."""
        self.outcomes["data_gaps"] += 1
        self.outcomes["data_gap_records"] += gap.next_offset - gap.first_offset

    def decode(self, batch: RecordBatch) -> Decoded:
        """Decode a batch: the one thing here that may happen on another thread, ahead of `take`."""
        return self._decoder.decode(batch)

    def take(self, batch: RecordBatch, decoded: Decoded) -> Letters:
        """Take in a batch; return a letter for all that had to be left out."""
        self._tenure.note(self._worker.label_sets_known())
        refusals = self._worker.ingest(decoded.batch)
        letters, left_none = letters_of(batch, decoded, refusals)
        self.outcomes.update(decoded.outcomes)
        self.outcomes["accepted"] -= left_none
        self.outcomes["rejected"] += left_none + len(batch.unplaced)
        self.outcomes["rows"] += len(decoded.batch) - len(refusals)
        counts = np.bincount(letters.reason, minlength=len(REASONS)).tolist()
        self.letters_by_reason.update({name: count for name, count in zip(REASONS, counts, strict=True) if count})
        return letters

    def knows_too_many(self) -> bool:
        """Tell whether so many label sets were learned since the last look that some must be forgotten."""
        return self._worker.label_sets_known() > self._label_sets_used + self._label_sets_unused_max

    def forget_label_sets(self) -> None:
        """Forget the label sets that nothing needs; whatever was decoded must have been taken in.

        A fleet that arrives is learned and used at once: with little to forget, the tables stay as they are.
        """
        used = self._worker.label_sets_used()
        self._label_sets_used = int(np.count_nonzero(used))
        unused = self._worker.label_sets_known() - self._label_sets_used
        if 2 * unused > self._label_sets_unused_max:
            self._decoder.forget_label_sets(used)
            self._worker.forget_label_sets(used)

    def snapshot(self) -> dict[str, Any]:
        """Return the tallies as plain JSON."""
        return {
            "outcomes": dict(sorted(self.outcomes.items())),
            "letters_by_reason": dict(sorted(self.letters_by_reason.items())),
        }
