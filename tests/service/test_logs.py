from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from service import logs
from service.settings import LogSettings


@pytest.fixture(autouse=True)
def _logging_as_before():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    config = structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**config)


def configured(level: str = "debug", format: str = "json") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(LogSettings(level=level, format=format), stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_event_and_facts():
    stream = configured()
    logs.get_logger("service.x").info("checkpoint written", rows=3)
    (line,) = lines(stream)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["timestamp"].endswith("Z")
    assert {k: line[k] for k in ("level", "event", "rows", "logger")} == {
        "level": "info",
        "event": "checkpoint written",
        "rows": 3,
        "logger": "service.x",
    }


def test_lines_below_the_level_are_not_written():
    stream = configured("warning")
    logs.get_logger("service.x").info("quiet")
    logging.getLogger("other").info("quiet")
    logs.get_logger("service.x").warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_lines_of_libraries_have_the_same_shape():
    stream = configured()
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)  # a server that ran before may have raised it
    logging.getLogger("uvicorn.error").warning("port %d in use", 80)
    (line,) = lines(stream)
    assert (line["level"], line["event"], line["logger"]) == ("warning", "port 80 in use", "uvicorn.error")


@pytest.mark.parametrize(
    "name, level", [("kafka.sasl.plain", "debug"), ("httpx", "info"), ("httpcore.http11", "debug")]
)
def test_loggers_that_print_secrets_stay_quiet_whatever_the_level(name, level):
    stream = configured("debug")
    logging.getLogger(name).setLevel(logging.DEBUG)
    getattr(logging.getLogger(name), level)("password canary")
    logging.getLogger(name).error("said")
    assert [line["event"] for line in lines(stream)] == ["said"]


@pytest.mark.parametrize("format", ["json", "console"])
def test_foreign_text_cannot_forge_a_line_or_drive_the_terminal(format):
    stream = configured(format=format)
    logs.get_logger("x").info("label", gpu="a\nlevel=error\x1b[2J\x7f\x9b\u202e", nested={"k": "\x1b"})
    written = stream.getvalue()
    assert written.count("\n") == 1
    assert not any(character in written for character in "\x1b\x7f\x9b\u202e")


def test_numbers_that_json_cannot_say_are_null():
    stream = configured()
    logs.get_logger("x").info("lag", lag=float("nan"), list=[float("inf"), 1.5])
    assert (lines(stream)[0]["lag"], lines(stream)[0]["list"]) == (None, [None, 1.5])


def test_an_exception_is_one_field_of_its_line():
    stream = configured()
    try:
        int("bad\nthing")
    except ValueError:
        logs.get_logger("x").exception("bug")
    (line,) = lines(stream)
    assert str(line["exception"]).startswith("Traceback")
    assert "ValueError: invalid literal" in str(line["exception"])


def test_console_lines_are_for_reading():
    stream = configured(format="console")
    logs.get_logger("x").warning("over budget", team="vision")
    assert "[warning  ] over budget" in stream.getvalue()
    assert "team=vision" in stream.getvalue()


def test_auto_writes_json_where_there_is_no_terminal():
    stream = configured(format="auto")
    logs.get_logger("x").info("hello")
    assert lines(stream)[0]["event"] == "hello"


def test_commands_do_not_tell_how_slow_the_client_finds_itself():
    stream = configured("warning")
    selector = logging.getLogger("kafka.net.selector")
    level = selector.level
    try:
        logs.quieten_client()
        selector.warning("Task ran for 0.1s")
        logging.getLogger("kafka.client").warning("said")
    finally:
        selector.setLevel(level)
    assert [line["event"] for line in lines(stream)] == ["said"]
