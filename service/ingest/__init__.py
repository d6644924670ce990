"""Ingest: from bytes in a log to rows, and to dead letters for what cannot be read."""
