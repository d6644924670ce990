"""A secret of a receiver: from the environment or a file, read anew for each use, never shown."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from service.errors import Unavailable

# Room for two signing secrets or the longest URL that is accepted.
_FILE_BYTES_MAX = 4096


class Secret:
    """One secret. Reading the file each time lets an orchestrator rotate it without a restart of ours."""

    def __init__(self, key: str, value: SecretStr, file: str) -> None:
        self._key = key
        self._value = value
        self._file = file

    def __repr__(self) -> str:
        return f"Secret({self._key})"

    @property
    def key(self) -> str:
        """The parameter to mend when something is wrong with this secret."""
        return f"{self._key}_file" if self._file else self._key

    def read(self) -> str:
        """Return the secret without surrounding white space; Unavailable if it cannot be had now."""
        text = self._read_file() if self._file else self._value.get_secret_value()
        stripped = text.strip()
        if not stripped:
            raise Unavailable(f"{self.key}: expected a secret, it is empty")
        return stripped

    def _read_file(self) -> str:
        try:
            with Path(self._file).open("rb") as file:
                content = file.read(_FILE_BYTES_MAX + 1)
        except OSError as error:
            raise Unavailable(f"{self.key}: cannot be read: {error.strerror}") from None
        if len(content) > _FILE_BYTES_MAX:
            raise Unavailable(f"{self.key}: expected at most {_FILE_BYTES_MAX} bytes")
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise Unavailable(f"{self.key}: expected UTF-8 text") from None


def one_of(key: str, value: SecretStr, file: str) -> str:
    """Return what is wrong with a pair of parameters of which exactly one must be set; empty if nothing is."""
    if bool(value.get_secret_value()) == bool(file):
        return f"expected exactly one of {key}_file and {key} (the latter from the environment)"
    return ""
