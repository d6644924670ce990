"""Where compiled kernels are kept, as a fresh process decides it: its own folder, a copy of one it can't write to, or none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRINT = "from kernels.cache import FOLDER; print(FOLDER)"
READ_ONLY = ["unshare", *([] if os.getuid() == 0 else ["--user", "--map-root-user"]), "--mount", "sh", "-ec"]


def chosen(tmp_path: Path, cache: Path, read_only: bool = False) -> subprocess.CompletedProcess[str]:
    """Return what a process says whose cache is `cache`, mounted read-only if wanted."""
    python = f'"{sys.executable}" -c "{PRINT}"'
    mount = f'mount --bind "{cache}" "{cache}"; mount -o remount,bind,ro "{cache}"; {python}'
    command = [*READ_ONLY, mount] if read_only else [sys.executable, "-c", PRINT]
    (tmp_path / "tmp").mkdir(exist_ok=True)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "TMPDIR": str(tmp_path / "tmp")}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False, timeout=60)


@pytest.fixture
def warm(tmp_path):
    """Return a cache folder with one kernel in it, and the folder of this code below it."""
    folder = Path(chosen(tmp_path, tmp_path / "cache").stdout.strip())
    (folder / "kernels_x").mkdir()
    (folder / "kernels_x" / "waste-1.py311.nbi").write_bytes(b"index")
    return tmp_path / "cache", folder


def test_a_folder_that_can_be_written_to_is_used_as_it_is(tmp_path, warm):
    cache, folder = warm
    assert folder.parent == cache
    assert folder.stat().st_mode & 0o777 == 0o700
    assert Path(chosen(tmp_path, cache).stdout.strip()) == folder
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_read_only_cache_is_copied_once_into_a_folder_of_its_own(tmp_path, warm):
    cache, _ = warm
    own = Path(chosen(tmp_path, cache, read_only=True).stdout.strip())
    assert own.parent == tmp_path / "tmp"
    assert own.stat().st_mode & 0o777 == 0o700
    assert (own / "kernels_x" / "waste-1.py311.nbi").read_bytes() == b"index"
    (own / "compiled-later").touch()
    assert Path(chosen(tmp_path, cache, read_only=True).stdout.strip()) == own
    assert (own / "compiled-later").exists()
    assert list((tmp_path / "tmp").iterdir()) == [own]


@pytest.mark.parametrize("kind", ["open", "link"])
def test_a_copy_that_somebody_else_could_have_put_there_is_refused(tmp_path, warm, kind):
    cache, _ = warm
    own = Path(chosen(tmp_path, cache, read_only=True).stdout.strip())
    if kind == "open":
        own.chmod(0o770)
    else:
        own.rename(tmp_path / "elsewhere")
        own.symlink_to(tmp_path / "elsewhere")
    done = chosen(tmp_path, cache, read_only=True)
    assert done.returncode == 1
    assert "expected a folder of this user's of mode 0700" in done.stderr


def test_a_cache_that_others_may_write_to_is_refused(tmp_path, warm):
    cache, folder = warm
    folder.chmod(0o777)
    done = chosen(tmp_path, cache)
    assert done.returncode == 1
    assert "others may write to the kernel cache" in done.stderr
