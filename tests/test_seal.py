"""The seal: the tree of RFC 6962, one form for one content, the same bytes again, nothing from outside, keys that stay where they are."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import rfc8785

import sealed
from harness import report
from harness.cli import main
from harness.consent import keys
from harness.errors import HarnessError
from harness.report import seal
from harness.report.seal import Broken
from harness.report.verify import check

# Roots of the first 1, 2, 3, 7 and 8 of the leaves that the Certificate Transparency project tests its trees with.
VECTORS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = {1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d", 2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
         3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77", 7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
         8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> keys.Key:
    return keys.create(tmp_path_factory.mktemp("keys") / "key.pem")


def test_the_tree_is_that_of_rfc_6962() -> None:
    leaves = [hashlib.sha256(b"\0" + bytes.fromhex(each)).hexdigest() for each in VECTORS]
    assert {n: seal.merkle_root(leaves[:n]) for n in ROOTS} == ROOTS
    with pytest.raises(HarnessError, match="nothing to seal"):
        seal.merkle_root([])


def test_a_seal_covers_every_file_and_names_what_it_does_not(tmp_path: Path, key: keys.Key) -> None:
    folder = sealed.make(tmp_path / "run", key)
    covered = {e.path for e in seal.read(folder).entries}
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert on_disk - covered == {"seal.json", "manifest.json", "adapter/times.json"} and covered <= on_disk
    assert {"report.html", "report.json", "findings.csv", "samples.csv", "tuned/00005.png", "adapter/weights.safetensors"} <= covered
    assert check(folder).outside == ("adapter/times.json", "manifest.json")


def test_report_and_seal_are_canonical_json(tmp_path: Path, key: keys.Key) -> None:
    folder = sealed.make(tmp_path / "run", key)
    for name in ("report.json", "seal.json"):
        data = (folder / name).read_bytes()
        assert data == rfc8785.dumps(json.loads(data))


def everything(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_files_and_key_give_the_same_bytes(tmp_path: Path, key: keys.Key) -> None:
    first = everything(sealed.make(tmp_path / "a", key))
    assert everything(sealed.make(tmp_path / "another-name", key)) == first
    resumed = tmp_path / "resumed"
    sealed.make(resumed, key)
    for name in ("report.html", "tuned/00003.png", "seal.json"):  # a run that was killed and goes on
        (resumed / name).unlink()
    assert everything(sealed.make(resumed, key)) == first
    assert everything(sealed.make(resumed, key)) == first  # reused


def test_another_key_gives_another_seal_and_the_same_numbers(tmp_path: Path, key: keys.Key) -> None:
    other = keys.create(tmp_path / "other.pem")
    one, two = everything(sealed.make(tmp_path / "a", key)), everything(sealed.make(tmp_path / "b", other))
    assert {name for name in one if one[name] != two[name]} == {"seal.json"}
    assert seal.read(tmp_path / "a").entries[0].salt != seal.read(tmp_path / "b").entries[0].salt


def test_numbers_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    for value in (float("nan"), 2**60):
        with pytest.raises(HarnessError, match="canonical"):
            report.write([sealed.STYLE], sealed.STORY | {"settings": {"x": value}}, [], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
@pytest.mark.parametrize("plant", ["link", "folder", "dangling", "pipe"])
def test_links_and_pipes_are_not_sealed(plant: str, tmp_path: Path) -> None:
    folder = sealed.make(tmp_path / "run")
    (tmp_path / "outside.txt").write_text("secret")
    target = {"link": tmp_path / "outside.txt", "folder": tmp_path, "dangling": tmp_path / "nowhere"}.get(plant)
    (folder / "planted").symlink_to(target) if target else os.mkfifo(folder / "planted")
    with pytest.raises(Broken, match="planted: a link or a device"):
        seal.write(folder)
    assert check(folder).differs.startswith("planted: a link or a device")


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "a/../../b", "", "a//b", "./a", "a\\b", "C:/x", "a\nb", "a\0b", "x|y"])
def test_names_that_lead_outside_are_refused(name: str) -> None:
    assert not seal.is_safe(name)


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/hostname", "tuned/../../secret.txt", "manifest.json"])
def test_a_seal_that_names_a_file_outside_is_refused_even_when_it_is_signed(name: str, tmp_path: Path, key: keys.Key) -> None:
    folder = sealed.make(tmp_path / "run", key)
    (tmp_path / "secret.txt").write_text("secret")
    held = json.loads((folder / "seal.json").read_bytes())
    held["files"][0]["path"] = name
    (folder / "seal.json").write_bytes(rfc8785.dumps(held))
    assert "leads outside of the report" in check(folder).differs


def test_a_newer_seal_or_report_is_refused_with_a_sentence(tmp_path: Path, key: keys.Key, capsys: pytest.CaptureFixture) -> None:
    folder = sealed.make(tmp_path / "run", key)
    held = json.loads((folder / "report.json").read_bytes())
    (folder / "report.json").write_bytes(rfc8785.dumps(held | {"schema": report.SCHEMA + 1, "harness": "9.9"}))
    seal.write(folder, key)
    assert main(["verify", str(folder)]) == 2
    assert "written by Likeness 9.9" in (said := capsys.readouterr()).err and "unchanged" not in said.out
    (folder / "seal.json").write_bytes((folder / "seal.json").read_bytes().replace(b'"seal":1', b'"seal":2'))
    assert main(["verify", str(folder)]) == 2 and "newer version" in capsys.readouterr().err


def test_a_file_is_taken_out_without_the_key_and_leaves_no_trace(tmp_path: Path, key: keys.Key) -> None:
    folder = sealed.make(tmp_path / "run", key)
    gone = next(e for e in seal.read(folder).entries if e.path == "tuned/00002.png")
    seal.withhold(folder, ["tuned/00002.png", "works.csv"])
    answer = check(folder, key.fingerprint)
    assert not answer.differs and answer.pinned and gone.leaf in answer.withheld and len(answer.withheld) == 2
    text = (folder / "seal.json").read_text()
    assert not (folder / gone.path).exists() and gone.path not in text and gone.sha256 not in text and gone.salt not in text
    before = everything(folder)
    with pytest.raises(HarnessError, match="not under the seal: nothing.png"):
        seal.withhold(folder, ["tuned/00001.png", "nothing.png"])
    assert everything(folder) == before


def test_the_key_stays_in_its_file(tmp_path: Path) -> None:
    key = keys.create(tmp_path / "key.pem")
    folder = sealed.make(tmp_path / "run", key)
    pem = key.path.read_bytes()
    raw = key._private.private_bytes_raw()
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    for data in everything(folder).values():
        assert raw not in data and raw.hex().encode() not in data and b"PRIVATE" not in data and pem.splitlines()[1] not in data


def test_the_command_seals_anew(tmp_path: Path, key: keys.Key, capsys: pytest.CaptureFixture) -> None:
    folder = sealed.make(tmp_path / "run", key)
    with (folder / "samples.csv").open("a") as file:
        file.write('tuned/00009.png,aa,"a new prompt",0\n')
    assert check(folder).differs.startswith("samples.csv")
    args = ["--unsigned", "--key", str(key.path)]
    from argparse import ArgumentParser
    parser = ArgumentParser()
    seal.add_arguments(parser)
    assert seal.main(parser.parse_args([str(folder), *args[1:]])) == 0
    assert check(folder, key.fingerprint).pinned and "a new prompt" not in (folder / "samples.redacted.csv").read_text()
    assert seal.main(parser.parse_args([str(folder), args[0]])) == 0
    assert "not signed" in check(folder).sentence
    shutil.rmtree(folder)
    with pytest.raises(HarnessError, match="no such folder"):
        seal.write(folder)
