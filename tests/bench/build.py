"""What the engines need, made once and kept in build/bench: the peers' venv, jars and classes, the Rust binary."""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent / "peers"
CACHE = ROOT / "build" / "bench"
BENCH_PYTHON = ROOT / "build" / "bench-venv" / "bin" / "python"  # `make bench` installs it
JAVA_TIMEOUT_S, RUST_TIMEOUT_S = 90, 400  # a quick run builds Java peers alone, and has three minutes


class Missing(Exception):
    """An engine cannot be had here, and why."""


def ours_python() -> str:
    """Return the interpreter that the service runs in."""
    return sys.executable


@functools.cache
def peers_python() -> str:
    """Return the interpreter of the venv that the Python peers and the loader run in."""
    if not BENCH_PYTHON.exists():
        raise Missing("build/bench-venv is not there: run make bench")
    return str(BENCH_PYTHON)


@functools.cache
def class_path() -> str:
    """Return the class path of the Java peers, compiled."""
    for tool, package in (("java", "default-jdk-headless"), ("javac", "default-jdk-headless"), ("mvn", "maven")):
        _require(tool, package)
    sources = sorted((PEERS / "java").glob("*.java"))
    pom = PEERS / "java" / "pom.xml"
    jars, classes = CACHE / "java" / "jars", CACHE / "java" / "classes"

    def compile_() -> None:
        _call(
            JAVA_TIMEOUT_S,
            "mvn",
            "-q",
            "-B",
            "-f",
            str(pom),
            "dependency:copy-dependencies",
            f"-DoutputDirectory={jars}",
        )
        _call(JAVA_TIMEOUT_S, "javac", "-cp", f"{jars}/*", "-d", str(classes), *map(str, sources))

    _once(CACHE / "java", [pom, *sources], compile_)
    return f"{classes}:{jars}/*"


@functools.cache
def rust_binary() -> str:
    """Return the Rust peer, compiled; librdkafka is compiled with it, by CMake, and includes curl's header."""
    if shutil.which("cargo") is None:
        raise Missing("cargo is not there: rustup installs it")
    _require("cmake", "cmake")
    if subprocess.run(["cc", "-E", "-"], input="#include <curl/curl.h>", text=True, capture_output=True).returncode:
        raise Missing("curl's header is not there: apt-get install libcurl4-openssl-dev")
    folder = CACHE / "rust"
    sources = [PEERS / "rust" / "Cargo.toml", PEERS / "rust" / "src" / "main.rs"]

    def compile_() -> None:
        shutil.copytree(PEERS / "rust", folder, dirs_exist_ok=True)
        _call(RUST_TIMEOUT_S, "cargo", "build", "--quiet", "--release", "--manifest-path", str(folder / "Cargo.toml"))

    _once(folder, sources, compile_)
    return str(folder / "target" / "release" / "rust-peer")


def _require(tool: str, package: str) -> None:
    if shutil.which(tool) is None:
        raise Missing(f"{tool} is not there: apt-get install {package}")


def _once(folder: Path, sources: list[Path], compile_: Callable[[], None]) -> None:
    """Compile unless the folder holds what these very sources gave."""
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    stamp = folder / "made-from"
    if stamp.exists() and stamp.read_text() == digest:
        return
    print(f"building the {folder.name} peers", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    compile_()
    stamp.write_text(digest)


def _call(timeout_s: float, *command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise Missing(f"{command[0]} took longer than {timeout_s:.0f} s") from error
    if done.returncode:
        words = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise Missing(f"{command[0]} failed: {next((w for w in words if 'rror' in w), words[-1] if words else '')}")
