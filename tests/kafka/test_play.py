"""What `make kafka` says."""

from __future__ import annotations

import re
from types import SimpleNamespace

from typer.testing import CliRunner

from service.__main__ import cli
from tests.kafka.__main__ import _words


def test_the_commands_that_make_kafka_prints_have_all_their_options() -> None:
    words = _words(SimpleNamespace(address="127.0.0.1:9092", log="broker.log"))
    commands = re.findall(r"skinflint (\w.+)$", words, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        arguments = [*command.split(), "--config", "/nowhere/config.yaml"]
        result = CliRunner().invoke(cli, arguments)
        assert "cannot be read: No such file" in str(result.exception), result.output
