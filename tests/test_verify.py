"""`harness verify`: whatever is changed is found and named; a forger's seal is told apart; never the word valid."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rfc8785

import sealed
from harness.cli import main
from harness.consent import keys
from harness.errors import HarnessError
from harness.images import sha256
from harness.report import seal, verify
from harness.report.verify import check

MUTATIONS = 1200


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> keys.Key:
    return keys.create(tmp_path_factory.mktemp("keys") / "key.pem")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, key: keys.Key) -> Path:
    return sealed.make(tmp_path_factory.mktemp("report") / "run", key)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def test_an_untouched_report_is_unchanged_and_its_signer_unknown(original: Path, key: keys.Key) -> None:
    for name in ("", "report.html", "report.json", "seal.json"):
        assert check(verify.folder_of(original / name)).sentence.startswith(f"unchanged, signer unknown: {key.fingerprint};")
    assert check(original, key.fingerprint).sentence == f"unchanged, signed by the key that you gave: {key.fingerprint}."


def test_a_thousand_one_byte_changes_are_all_found_and_named(folder: Path, key: keys.Key) -> None:
    rng, names = random.Random(7), [*seal.listed(folder), seal.NAME]
    for i in range(MUTATIONS):
        name = names[i % len(names)]
        path = folder / name
        data = path.read_bytes()
        place, kind = rng.randrange(len(data)), rng.choice(("flip", "drop", "insert", "case"))
        other = bytes([data[place] ^ (rng.randrange(1, 256) if kind != "case" else 0x20)])
        changed = data[:place] + {"drop": b"", "insert": other + data[place:place + 1]}.get(kind, other) + data[place + 1:]
        path.write_bytes(changed)
        try:
            differs = check(folder, key.fingerprint if i % 2 else "").differs
        except HarnessError as refused:  # a change of the version's number reads as a newer version; it is not accepted either
            differs = f"{seal.NAME} {refused}" if "newer version" in str(refused) else ""
        assert differs.startswith(name), (name, place, kind, differs)
        path.write_bytes(data)
    assert not check(folder, key.fingerprint).differs


def test_every_single_byte_of_the_seal_counts(folder: Path) -> None:
    path = folder / seal.NAME
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1:])  # upper and lower case, blanks
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(verify, "_files", lambda *_: iter(()))  # the seal alone has to notice
            assert check(folder).differs, (place, data[place - 20:place + 20])


def test_whole_files_are_named(folder: Path) -> None:
    a, b = folder / "tuned/00001.png", folder / "tuned/00004.png"
    one, two = a.read_bytes(), b.read_bytes()
    a.unlink()
    assert check(folder).differs == "tuned/00001.png: is gone"
    a.write_bytes(two), b.write_bytes(one)
    assert check(folder).differs == "tuned/00001.png: holds what was sealed as tuned/00004.png"
    a.write_bytes(one), b.write_bytes(two)
    (folder / "tuned/99999.png").write_bytes(sealed.picture(99))
    assert check(folder).differs == "tuned/99999.png: was not there when the report was sealed"
    (folder / "tuned/99999.png").unlink()
    a.rename(folder / "tuned/00001b.png")
    assert check(folder).differs == "tuned/00001.png: is gone"
    (folder / "tuned/00001b.png").rename(a)
    shutil.copy(a, folder / "another.png")
    assert check(folder).differs == "another.png: was not there when the report was sealed; it holds what was sealed as tuned/00001.png"


def altered(folder: Path, change: object) -> None:
    held = json.loads((folder / seal.NAME).read_bytes())
    change(held)
    (folder / seal.NAME).write_bytes(rfc8785.dumps(held))


def test_a_list_that_was_made_to_fit_is_found(folder: Path) -> None:
    (folder / "tuned/00002.png").write_bytes(sealed.picture(77))

    def fit(held: dict) -> None:
        for row in held["files"]:
            if row["path"] == "tuned/00002.png":
                row["sha256"] = sha256(folder / row["path"])

    altered(folder, fit)
    assert check(folder).differs == "seal.json: its list of files is not the one that was sealed"

    def root_too(held: dict) -> None:
        held["signed"]["root"] = seal.merkle_root([seal.leaf(r["sha256"], r["salt"], r["path"]) for r in held["files"]])

    altered(folder, root_too)
    assert check(folder).differs == "seal.json: the signature does not belong to this root and key"


@pytest.mark.parametrize("change", [
    lambda h: h["files"].pop(), lambda h: h["files"].append(dict(h["files"][-1])), lambda h: h["files"].reverse(), lambda h: h.update(files=[]),
    lambda h: h.update(more=1), lambda h: h["signed"].update(files=3), lambda h: h["signed"].update(files=True), lambda h: h.pop("signature"),
    lambda h: h["files"][0].update(salt=""), lambda h: h["files"][0].update(salt=7), lambda h: h["files"][0].update(withheld=False),
    lambda h: h["files"][0].update(leaf="ab" * 32), lambda h: h["files"].__setitem__(0, "x"), lambda h: h.update(signed="x"), lambda h: h.update(files={"a": 1}),
    lambda h: h["signed"].update(seal="1"), lambda h: h["signed"].update(key=h["signed"]["key"].upper()), lambda h: h.update(signature=h["signature"].upper()),
    lambda h: h["signed"].update(key=""), lambda h: h.update(signature=""), lambda h: h["files"].__setitem__(0, {"leaf": None}),
    lambda h: h["signed"].update(root=5), lambda h: h["signed"].update(root=["a"]), lambda h: h.update(signature=None),
])
def test_a_damaged_list_is_found(folder: Path, change: object) -> None:
    altered(folder, change)
    assert check(folder).differs


def test_a_file_listed_twice_is_refused_even_when_it_is_signed(folder: Path, key: keys.Key) -> None:
    held = seal.read(folder)
    twice = (held.entries[0], *held.entries)
    bare = seal.Seal(twice, seal.merkle_root([e.leaf for e in twice]), held.key, "")
    seal.save(folder, seal.Seal(twice, bare.root, bare.key, key.sign(seal.canonical(bare.signed)).hex()))
    assert check(folder).differs == "seal.json: its form was changed; a seal has one form for one content"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"signed":{"seal":1}}', b"[" * 100_000, b'{"signed":{"seal":1},"files":[],"signature":""}'])
def test_what_is_no_seal_is_found(folder: Path, data: bytes) -> None:
    (folder / seal.NAME).write_bytes(data)
    assert check(folder).differs.startswith("seal.json: ")


def test_a_forger_who_signs_again_is_told_apart_by_the_pin(folder: Path, key: keys.Key, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    forger = keys.create(tmp_path / "forger.pem")
    (folder / "report.html").write_text((folder / "report.html").read_text(encoding="utf-8").replace("0.062", "0.000"), encoding="utf-8")
    seal.write(folder, forger)
    assert main(["verify", str(folder)]) == 0
    assert (said := capsys.readouterr().out).startswith(f"unchanged, signer unknown: {forger.fingerprint}") and "valid" not in said
    assert main(["verify", str(folder), "--key", key.fingerprint]) == 1
    assert capsys.readouterr().out == f"changed: seal.json: signed by {forger.fingerprint} and not by {key.fingerprint}.\n"


def test_a_signature_that_was_taken_off_is_no_signature(folder: Path, key: keys.Key) -> None:
    seal.write(folder)
    assert check(folder).sentence.startswith("unchanged, not signed")
    assert check(folder, key.fingerprint).differs == f"seal.json: it is not signed, and {key.fingerprint} was asked for"


def test_a_pin_may_be_a_file(original: Path, key: keys.Key, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form

    pem = key._private.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    for name, data in {"key.pub": pem, "card.txt": f"My key: {key.fingerprint}\n".encode()}.items():
        (tmp_path / name).write_bytes(data)
        assert main(["verify", str(original), "--key", str(tmp_path / name)]) == 0
    (tmp_path / "two.txt").write_text(f"{key.fingerprint} ed25519:{'0' * 64}")
    (tmp_path / "none.txt").write_text("hello")
    for wrong, match in (("two.txt", "2 fingerprints"), ("none.txt", "no fingerprints"), ("gone.txt", "neither a fingerprint")):
        with pytest.raises(HarnessError, match=match):
            verify.read_pin(str(tmp_path / wrong))
    with pytest.raises(HarnessError, match="a private key"):
        verify.read_pin(str(key.path))
    with pytest.raises(HarnessError, match="neither a fingerprint"):
        verify.read_pin(key.fingerprint[:-1])


def test_the_command_says_one_sentence_for_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["verify", str(tmp_path / "nothing")]) == 2 and "no such report" in capsys.readouterr().err
    assert main(["verify", str(tmp_path)]) == 2 and "seal.json" in capsys.readouterr().err


def test_deep_numbers_and_deep_folders_are_walked(folder: Path, key: keys.Key) -> None:
    (folder / "report.json").write_text("[" * 100_000)
    seal.write(folder, key)
    assert check(folder, key.fingerprint).pinned
    deep = folder
    try:
        for _ in range(1000):
            deep = deep / "d"
            deep.mkdir()
        signer = check(folder).signer
        (deep / "x").write_text("new")
        differs = check(folder).differs
        (deep / "x").unlink()
    finally:  # before anything else: who removes folders by calling themselves does not come to an end here
        while deep != folder:
            deep.rmdir()
            deep = deep.parent
    assert signer == key.fingerprint and differs.endswith("d/x: was not there when the report was sealed")


def test_nobodys_home_is_no_pin(original: Path, capsys: pytest.CaptureFixture) -> None:
    for key in ("~nosuchuser/x", "a\0b"):
        assert main(["verify", str(original), "--key", key]) == 2 and "neither a fingerprint" in capsys.readouterr().err


def test_twenty_lines_that_share_no_code_agree(folder: Path, original: Path, key: keys.Key, root: Path, tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (root / "docs/verify.md").read_text(encoding="utf-8"), re.S)[1]
    assert len(code.splitlines()) <= 20 and "harness" not in code
    (tmp_path / "check.py").write_text(code, encoding="utf-8")

    def says(report: Path) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-I", str(tmp_path / "check.py"), str(report)], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    assert says(original) == (0, f"unchanged, signed by {key.fingerprint}\n")
    for name in ("report.html", "tuned/00003.png", "rows.csv"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        code_, text = says(folder)
        assert code_ and name in text
        (folder / name).write_bytes(data)
    data = (folder / seal.NAME).read_bytes()
    for place in (20, data.index(b'"signature"') + 20, data.index(b'"root"') + 12, data.index(b'"salt"') + 12):
        (folder / seal.NAME).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1:])
        assert says(folder)[0], place
    (folder / seal.NAME).write_bytes(data)
    (folder / "extra.png").write_bytes(b"x")
    assert "extra.png" in says(folder)[1]
