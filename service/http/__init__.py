"""Metrics, API and page over HTTP, read-only: one thread of its own, which reads the Publisher and nothing else."""

from __future__ import annotations

from service.http.server import HttpServer

__all__ = ["HttpServer"]
