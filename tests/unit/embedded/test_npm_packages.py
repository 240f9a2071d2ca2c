"""Pinned packages: what is refused before anything is unpacked."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import stat
import tarfile
import threading
from pathlib import Path

import pytest

from workers.embedded import npm_packages
from workers.embedded.errors import EmbeddedServiceError, IntegrityError
from workers.embedded.npm_packages import NpmPackage


def tarball(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755
            archive.addfile(member, io.BytesIO(content))
    return path


def integrity(path: Path) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def fake_npm(folder: Path, source: Path) -> str:
    """An executable that delivers SOURCE as `npm pack` would, and counts its calls."""
    script = folder / "bin" / "npm"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/sh\n"
        f"echo called >> {folder}/calls\n"
        'while [ "$1" != "--pack-destination" ]; do shift; done\n'
        f'cp {source} "$2/package.tgz"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
    node = folder / "bin" / "node"
    node.write_text("#!/bin/sh\n", encoding="utf-8")
    node.chmod(0o755)
    return f"{script.parent}{os.pathsep}{os.environ['PATH']}"


def test_every_pin_is_a_whole_sha512() -> None:
    names = [pin.name for pin in npm_packages.pinned()]
    assert len(names) == len(set(names)) >= 3
    for pin in npm_packages.pinned():
        algorithm, _, digest = pin.integrity.partition("-")
        assert algorithm == "sha512"
        assert len(base64.b64decode(digest, validate=True)) == 64
        assert pin.version


def test_one_changed_byte_is_refused(tmp_path: Path) -> None:
    good = tarball(tmp_path / "good.tgz", {"package/a": b"a"})
    pin = NpmPackage("a", "1", integrity(good))
    npm_packages.check_integrity(good, pin)
    content = bytearray(good.read_bytes())
    content[-1] ^= 1
    good.write_bytes(content)
    with pytest.raises(IntegrityError, match="a@1 was delivered"):
        npm_packages.check_integrity(good, pin)


def test_a_package_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = tarball(tmp_path / "big.tgz", {"package/a": b"a" * 5000, "package/b": b"b"})
    monkeypatch.setattr(npm_packages, "MAX_UNPACKED_BYTES", 5000)
    with pytest.raises(EmbeddedServiceError, match="unpacks to more than 5000 bytes"):
        npm_packages.unpack(big, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(npm_packages, "MAX_TARBALL_BYTES", 10)
    with pytest.raises(IntegrityError, match="more than the accepted 10"):
        npm_packages.check_integrity(big, NpmPackage("a", "1", integrity(big)))


@pytest.mark.parametrize("name", ["../escaped", "package/../../escaped", "/tmp/escaped-from-a-package"])
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    evil = tarball(tmp_path / "evil.tgz", {"package/a": b"a", name: b"x"})
    with pytest.raises(IntegrityError, match="no plain file inside"):
        npm_packages.unpack(evil, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tgz"]
    assert not Path("/tmp/escaped-from-a-package").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "evil.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("package/link")
        member.type = kind
        member.linkname = "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(IntegrityError, match="'package/link', which is no plain file"):
        npm_packages.unpack(tmp_path / "evil.tgz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_keep_their_content_and_their_execute_bit_and_no_other(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        for name, mode in (("package/bin/tool", 0o4777), ("package/abi.json", 0o666)):
            member = tarfile.TarInfo(name)
            member.size, member.mode = 3, mode
            archive.addfile(member, io.BytesIO(b"abc"))
    npm_packages.unpack(tmp_path / "a.tgz", tmp_path / "out")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert modes == {"tool": 0o755, "abi.json": 0o644}
    assert (tmp_path / "out" / "package" / "bin" / "tool").read_bytes() == b"abc"


def test_concurrent_callers_fetch_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tarball(tmp_path / "source.tgz", {"package/bin/tool": b"#!/bin/sh\n"})
    monkeypatch.setenv("PATH", fake_npm(tmp_path, source))
    pin = NpmPackage("@scope/tool", "1.2.3", integrity(source))
    state_dir = tmp_path / "state"
    found: list[Path] = []

    def call() -> None:
        found.append(npm_packages.fetch_package(pin, state_dir))

    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert set(found) == {state_dir / "npm" / "scope-tool-1.2.3"}
    assert len(found) == 8
    assert (tmp_path / "calls").read_text(encoding="utf-8").count("called") == 1
    assert (found[0] / "bin" / "tool").stat().st_mode & stat.S_IXUSR
    assert sorted(path.name for path in (state_dir / "npm").iterdir()) == [
        "scope-tool-1.2.3",
        "scope-tool-1.2.3.lock",
    ]


def test_a_wrong_delivery_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tarball(tmp_path / "source.tgz", {"package/a": b"a"})
    monkeypatch.setenv("PATH", fake_npm(tmp_path, source))
    pin = NpmPackage("tool", "1", "sha512-" + "A" * 86 + "==")
    with pytest.raises(IntegrityError):
        npm_packages.fetch_package(pin, tmp_path / "state")
    assert [path.name for path in (tmp_path / "state" / "npm").iterdir()] == ["tool-1.lock"]


def test_no_delivery_is_tried_again_and_then_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", fake_npm(tmp_path, tmp_path / "missing.tgz"))
    monkeypatch.setattr(npm_packages, "RETRY_MAX_SECONDS", 0)
    with pytest.raises(EmbeddedServiceError, match="ANVIL_BINARY") as caught:
        npm_packages.fetch_package(NpmPackage("tool", "1", "sha512-x"), tmp_path / "state")
    assert "tool@1" in str(caught.value)
    calls = (tmp_path / "calls").read_text(encoding="utf-8").count("called")
    assert calls == npm_packages.PACK_ATTEMPTS


def test_a_package_that_is_not_pinned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServiceError, match="left-pad is not pinned"):
        npm_packages.fetch("left-pad", tmp_path)
