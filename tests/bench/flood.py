"""Ours under a flood of new ids: python -m tests.bench.flood BOOTSTRAP ENTITIES_MAX IDS...; the topic holds as many as the last.

Prints one line of JSON: rate and peak memory when so many ids each were read, and what was rejected.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.bench.ours import run, settings_of
from tests.bench.works import Flood

LETTER_BYTES_MAX = 1 << 33  # a letter has half a kilobyte: at the default of 1 GiB 2.5 million would pause the stream


def main() -> None:
    """Run in a folder that is removed afterwards."""
    bootstrap, *numbers = sys.argv[1:]
    entities_max, *ids = map(int, numbers)
    load = Flood.of_ids(ids[-1])
    marks = [min(count, load.messages) for count in ids]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as cleanup:
        settings = settings_of(
            bootstrap,
            load,
            Path(folder),
            fleet={"entities_max": entities_max},
            ingest={"dead_letter": {"bytes_max": LETTER_BYTES_MAX}},
        )
        print(json.dumps(run(settings, load, cleanup, marks)), flush=True)


if __name__ == "__main__":
    main()
