"""An image without an engine: the build's steps in a folder, and a run of it with a root that is really read-only."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
from pathlib import Path

from tests.deploy.dockerfile import Stage, passes, stages

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/Dockerfile"
UID = 65532
AS_ROOT = os.getuid() == 0
PLACES = ("/opt/skinflint", "/etc/skinflint", "/var/lib/skinflint")


class Image:
    """The files of the image, below `folder`; a path of the image is the same path below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.build, self.final = stages(DOCKERFILE.read_text())

    def path(self, of_image: str) -> Path:
        """Return where a path of the image lies."""
        return self.folder / of_image.lstrip("/")

    def here(self, text: str) -> str:
        """Return the text with the image's paths as they are here."""
        for place in PLACES:
            text = text.replace(place, str(self.path(place)))
        return text

    def environment(self, stage: Stage) -> dict[str, str]:
        """Return the environment of a stage: nothing of ours but the way to the system's programs."""
        values = {name: self.here(value).replace("${PATH}", os.environ["PATH"]) for name, value in stage.env.items()}
        return values | {"HOME": "/nonexistent", "TMPDIR": str(self.path("/tmp"))}

    def make(self) -> None:
        """Take every step of the build but one: packages are those of this environment, not fetched anew."""
        for place in ("/src", "/tmp", *PLACES):
            self.path(place).mkdir(parents=True)
        for instruction, rest in self.build.steps:
            if instruction == "COPY":
                *sources, target = rest.split()
                for source in sources:
                    self._copy(source, self.path("/src") / target)
            elif instruction == "RUN":
                self._run(rest)
        for words in self.final.words("COPY"):
            _, source, target = words
            if source != target:
                shutil.copy(self.path(source), self.path(target))
        shutil.rmtree(self.path("/src"))
        shutil.rmtree(self.path("/tmp"))
        self.path("/tmp").mkdir(mode=0o1777)
        if AS_ROOT:
            for place in ("/tmp", "/var/lib/skinflint"):
                os.chown(self.path(place), UID, UID)

    def _copy(self, source: str, target: Path) -> None:
        ignore = (ROOT / ".dockerignore").read_text()
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "--", source],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        files = [file for file in listed if passes(file, ignore)]
        assert files, f"COPY {source}: .dockerignore leaves nothing of it"
        for file in files:
            inside = target / Path(file).relative_to(source) if (ROOT / source).is_dir() else target / Path(file).name
            inside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, inside)

    def _run(self, commands: str) -> None:
        for command in commands.split(" && "):
            if "--require-hashes" in command:
                (packages,) = self.path("/opt/skinflint/lib").glob("python*/site-packages")
                for old in (
                    *packages.glob("setuptools*"),
                    packages / "_distutils_hack",
                ):  # of ensurepip; the lock has newer
                    shutil.rmtree(old, ignore_errors=True)
                (packages / "distutils-precedence.pth").unlink(missing_ok=True)
                (packages / "environment.pth").write_text("\n".join(site.getsitepackages()))
                continue
            done = subprocess.run(
                ["sh", "-ec", self.here(command)], cwd=self.path("/src"), env=self.environment(self.build),
                capture_output=True, text=True, check=False, timeout=100,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"

    def contained(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a command of the image as its user, with every file system read-only but the state folder and /tmp."""
        written = [str(self.path(place)) for place in ("/var/lib/skinflint", "/tmp")]
        mounts = " ".join(
            dict.fromkeys(_mount_of(path) for path in (*written, str(ROOT), "/", "/tmp", "/var", "/dev/shm"))
        )
        script = [
            *(f'mount --bind "{path}" "{path}"' for path in written),
            f"for each in {mounts}; do mount -o remount,bind,ro $each; done",
            'if touch "$0"/x 2>/dev/null; then echo "the root is not read-only" >&2; exit 99; fi',
            f'cd "{written[0]}"',
            'exec "$@"',
        ]
        # Read, not write: the interpreter may lie in a home folder of root's.
        reading = "-all,+dac_read_search"
        user = [
            "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs",
            f"--inh-caps={reading}", f"--ambient-caps={reading}", f"--bounding-set={reading}",
        ]  # fmt: skip
        apart = ["unshare", "--mount"] if AS_ROOT else ["unshare", "--user", "--map-root-user", "--mount"]
        line = [*apart, "sh", "-ec", "\n".join(script), str(self.path("/opt")), *(user if AS_ROOT else []), *command]
        return subprocess.Popen(
            line, env=self.environment(self.final) | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def done(self, command: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
        """Run a command of the image to its end; return exit code, output and errors."""
        process = self.contained(command, environment)
        out, errors = process.communicate(timeout=60)
        return process.returncode, out.decode(), errors.decode()


def _mount_of(path: str) -> str:
    found = subprocess.run(
        ["findmnt", "-n", "-o", "TARGET", "--target", path], capture_output=True, text=True, check=True
    )
    return found.stdout.split()[0]
