"""A key is made safely, stays in its file, and is refused when it is not what it says."""

from __future__ import annotations

import copy
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.consent import keys
from harness.errors import HarnessError


def test_a_key_signs_and_comes_back(tmp_path: Path) -> None:
    key = keys.create(tmp_path / "deep" / "key.pem")
    again = keys.load(key.path)
    assert again == key and len(key.public) == 32 and keys.verify(key.public, again.sign(b"words"), b"words")
    assert key.fingerprint == keys.fingerprint(key.public) and key.fingerprint.startswith("ed25519:") and len(key.fingerprint) == 72


def test_anything_but_the_very_signature_is_refused(tmp_path: Path) -> None:
    key, other = keys.create(tmp_path / "a"), keys.create(tmp_path / "b")
    signature = key.sign(b"words")
    for at in range(len(signature) * 8):
        bent = bytearray(signature)
        bent[at // 8] ^= 1 << at % 8
        assert not keys.verify(key.public, bytes(bent), b"words")
    assert not keys.verify(other.public, signature, b"words") and not keys.verify(key.public, signature, b"word")
    assert not any(keys.verify(public, signature, b"words") for public in (b"", b"short", bytes(33)))
    assert not keys.verify(key.public, b"", b"words")


@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_only_the_owner_may_read_a_new_key(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        key = keys.create(tmp_path / "key.pem")
    finally:
        os.umask(before)
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600 and [path.name for path in tmp_path.iterdir()] == ["key.pem"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601])
def test_a_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    key = keys.create(tmp_path / "key.pem")
    key.path.chmod(mode)
    with pytest.raises(HarnessError, match="chmod 600"):
        keys.load(key.path)


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    held = keys.create(tmp_path / "key.pem").path.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("key.pem", "link"):
        with pytest.raises(HarnessError, match="never written over"):
            keys.create(tmp_path / name)
    assert (tmp_path / "key.pem").read_bytes() == held and sorted(p.name for p in tmp_path.iterdir()) == ["key.pem", "link"]


def test_passphrases(tmp_path: Path) -> None:
    key = keys.create(tmp_path / "key.pem", "open sesame")
    assert keys.load(key.path, "open sesame") == key and b"ENCRYPTED" in key.path.read_bytes()
    for wrong, words in (("open barley", "wrong passphrase"), (None, "needs its passphrase"), ("", "needs its passphrase")):
        with pytest.raises(HarnessError, match=words):
            keys.load(key.path, wrong)
    plain = keys.create(tmp_path / "plain.pem")
    with pytest.raises(HarnessError, match="has no passphrase"):
        keys.load(plain.path, "open sesame")
    with pytest.raises(HarnessError, match="empty"):
        keys.create(tmp_path / "x", "")
    with pytest.raises(HarnessError, match="too long"):
        keys.create(tmp_path / "x", "\u00e9" * 512)
    with pytest.raises(HarnessError, match="wrong passphrase"):
        keys.load(key.path, "x" * 3000)
    assert not (tmp_path / "x").exists() and keys.load(keys.create(tmp_path / "x", "\u00e9" * 511).path, "\u00e9" * 511)


def test_nobodys_home_holds_no_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for act in (keys.create, keys.load, keys.read_public):
        with pytest.raises(HarnessError, match="nobody of that name"):
            act(Path("~nosuchuser/x"))
    monkeypatch.setenv("HARNESS_KEY", "~nosuchuser/x")
    assert cli.main(["key", "show"]) == 2 and "nobody of that name" in capsys.readouterr().err


def test_files_that_are_no_key(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    good = keys.create(tmp_path / "good").path.read_bytes()
    other = generate_private_key(SECP256R1()).private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    for name, data in {"empty": b"", "text": b"hello", "half": good[:60], "other": other, "bytes": bytes(range(256)) * 99}.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
    for name in ("empty", "text", "half", "other", "bytes", "gone", "."):
        with pytest.raises(HarnessError):
            keys.load(tmp_path / name)
        with pytest.raises(HarnessError):
            keys.read_public(tmp_path / name)
    with pytest.raises(HarnessError, match="not a public key"):
        keys.read_public(tmp_path / "good")


def test_a_key_never_leaves_its_file(tmp_path: Path) -> None:
    key = keys.create(tmp_path / "key.pem")
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leave(key)
    seed = key._private.private_bytes_raw()
    assert seed.hex() not in repr(key) and "PRIVATE" not in repr(key) and "_private" not in repr(key)
    (tmp_path / "pub.pem").write_text(keys.public_pem(key))
    assert keys.read_public(tmp_path / "pub.pem") == key.public


def test_the_default_key_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_KEY", str(tmp_path / "mine.pem"))
    monkeypatch.delenv(keys.PASSPHRASE, raising=False)
    assert keys.default() == keys.default() and (tmp_path / "mine.pem").exists()
    monkeypatch.delenv("HARNESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(keys.PASSPHRASE, "long words")
    assert keys.default().path == tmp_path / ".config/likeness/key.pem" and b"ENCRYPTED" in keys.default().path.read_bytes()


def test_several_processes_at_their_first_use_agree_on_one_key(tmp_path: Path) -> None:
    code = "from harness.consent import keys; print(keys.default().fingerprint)"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"HARNESS_KEY": str(tmp_path / "k.pem")})
               for _ in range(4)]
    assert len({process.communicate(timeout=60)[0] for process in started}) == 1 and all(process.returncode == 0 for process in started)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keys.PASSPHRASE, raising=False)
    path = tmp_path / "k.pem"
    assert cli.main(["key", "new", str(path)]) == 0 and keys.load(path).fingerprint in capsys.readouterr().out
    assert cli.main(["key", "new", str(path)]) == 2 and capsys.readouterr().err.startswith("error: ")
    assert cli.main(["key", "show", "--pem", str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown == keys.public_pem(keys.load(path)) and "PRIVATE" not in shown
    words = iter(["one", "two", "same", "same"])
    monkeypatch.setattr(keys.getpass, "getpass", lambda prompt: next(words))
    assert cli.main(["key", "new", "--protect", str(tmp_path / "p")]) == 2 and "differ" in capsys.readouterr().err
    assert cli.main(["key", "new", "--protect", str(tmp_path / "p")]) == 0 and keys.load(tmp_path / "p", "same")
