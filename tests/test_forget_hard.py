"""Requests as they come: names inside other names, photos known by their folder alone, works of others, damaged files, things left half done."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import planted
from harness.consent import forget, keys, rights, seals, tombstone
from harness.consent.forget import Eyes
from harness.consent.ledger import Record
from harness.consent.names import Names
from harness.consent.scrub import Scrub
from harness.consent.search import Needles, search
from harness.consent.store import Store, open_store
from harness.errors import HarnessError
from harness.images import save_png, sha256

LOOK = Eyes(planted.describe, planted.alike)
USE = "cawg.ai_generative_training"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("HARNESS_KEPT", str(tmp_path / "home" / "kept.json"))
    with open_store(tmp_path / "ledger" / "consent.db", keys.create(tmp_path / "key.pem"), create=True) as opened:
        yield opened


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def record(name: str, work: str = "*", decision: str = "allowed", **more: str) -> Record:
    return Record(name, work, USE, decision, "a letter", "2024-01-01", **more)


def photo(path: Path, seed: int) -> str:
    return save_png(path, planted.picture(seed))


def left(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir() and "tombstones" not in path.parts)


def tombstones(root: Path) -> list[dict]:
    return [tombstone.read(path) for path in tombstone.all_below([root])]


# --- whose a picture is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["photos/mira/1.png", "photos/mira_01.png", "photos/2024-mira-summer/x.jpg", "Photos/MIRA/1.png", "mira/film.mp4", "mira/1.heic"])
def test_a_picture_belongs_to_whom_its_name_or_folder_names(store: Store, root: Path, tmp_path: Path, name: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99) if path.suffix in (".mp4", ".heic") else planted.png(planted.picture(1)))
    shutil.copyfile(path, tmp_path / "mine")
    photo(root / "photos" / "miranda" / "1.png", 900)
    store.add(record("mira"))
    exported = rights.export(store, "mira", [root], tmp_path / "out")
    assert name in exported.read_text() and any(sha256(each) == sha256(tmp_path / "mine") for each in (tmp_path / "out").rglob("*") if each.is_file())
    assert [trace.path.name for trace in rights.withdraw(store, "mira", [root], look=LOOK).traces if trace.action == "delete"] == [path.name]
    assert rights.forget(store, "mira", [root], look=LOOK).clean and left(root) == ["photos/miranda/1.png"]


def test_a_picture_in_their_folder_that_a_table_gives_to_another_stays(store: Store, root: Path) -> None:
    digest = photo(root / "mira" / "by-noor.png", 1)
    planted.table(root / "mira" / "samples.csv", "file,sha256,artist", [("by-noor.png", digest, "noor")])
    store.add([record("mira"), record("noor")])
    assert not [trace for trace in rights.withdraw(store, "mira", [root], True, look=LOOK).traces if trace.action == "delete"]
    assert left(root) == ["mira/by-noor.png", "mira/samples.csv"]


@pytest.mark.parametrize("data", [
    "file;sha256;artist\n1.png;{h};mira\n2.png;{o};noor\n".encode(), "file,sha256,artist,note\n1.png,{h},mira,café\n2.png,{o},noor,\n".encode("latin-1"),
    "file,sha256,artist,thumb\n1.png,{h},mira,AAAA\n2.png,{o},noor,LONG\n".encode(), "File\tArtist\n1.png\tMira\n2.png\tnoor\n".encode("utf-16"),
    "\ufefffile,artist\n1.png,MIRA\n2.png,noor\n".encode()], ids=["semicolons", "latin-1", "a long cell", "tabs in UTF-16", "no hash"])
def test_tables_are_read_as_people_write_them(store: Store, root: Path, data: bytes) -> None:
    digests = {b"{h}": photo(root / "a" / "1.png", 1), b"{o}": photo(root / "a" / "2.png", 900)}
    for mark, digest in digests.items():
        data = data.replace(mark, digest.encode())
    (root / "a" / "samples.csv").write_bytes(data.replace(b"LONG", b"B" * 200_000))
    store.add([record("mira", digests[b"{h}"]), record("noor")])
    assert not rights.forget(store, "mira", [root], look=LOOK).hits and left(root) == ["a/2.png", "a/samples.csv"]
    assert "noor" in (root / "a" / "samples.csv").read_bytes().replace(b"\0", b"").decode("latin-1")


def test_a_table_that_names_them_and_files_in_a_way_nobody_understands_stops_forgetting_before_it_begins(store: Store, root: Path) -> None:
    photo(root / "a" / "1.png", 1)
    (root / "a" / "wer.csv").write_text("bild,name\n1.png,mira\n")
    store.add([record("mira"), record("noor")])
    assert "wer.csv" in " ".join(rights.withdraw(store, "mira", [root], look=LOOK).unread)
    with pytest.raises(HarnessError, match=r"wer\.csv .*which files are theirs"):
        rights.forget(store, "mira", [root], look=LOOK)
    assert left(root) == ["a/1.png", "a/wer.csv"] and not store.intents.open()


# --- names inside other names ----------------------------------------------------------------------------------------


def test_somebody_whose_name_holds_theirs_loses_nothing(store: Store, root: Path) -> None:
    for name, seed in (("Anna", 1), ("Anna Lee", 900), ("Mary-Anna", 950)):
        digest = photo(root / name / "1.png", seed)
        planted.table(root / name / "samples.csv", "file,sha256,artist", [("1.png", digest, name)])
        store.add(record(name, digest)) if name != "Mary-Anna" else None
    photo(root / "anna_lee-holiday" / "x.png", 901)
    (root / "notes.md").write_text("Anna met Anna Lee, ANNA_LEE, and Mary-Anna.")
    answer = rights.forget(store, "Anna", [root], look=LOOK)
    assert answer.clean and answer.kept == ("the name Anna Lee", "the name Mary-Anna") and store.subjects() == ["Anna Lee"]
    assert left(root) == ["Anna Lee/1.png", "Anna Lee/samples.csv", "Mary-Anna/1.png", "Mary-Anna/samples.csv", "anna_lee-holiday/x.png", "notes.md"]
    assert (root / "notes.md").read_text() == "removed met Anna Lee, ANNA_LEE, and Mary-Anna." and "Anna Lee" in (root / "Anna Lee" / "samples.csv").read_text()


def test_the_longest_name_goes_first_and_the_search_has_the_same_rule(tmp_path: Path) -> None:
    names = Names(["Lee", "anna"], ["Anna Lee", "noor", "LEE"])
    assert names.others == ("Anna Lee",) and names.sub("x", "Lee and anna_lee, Anna; leeward noor") == "x and anna_lee, x; leeward noor"
    (tmp_path / "x.txt").write_text("Anna-Lee")
    assert search([tmp_path], Needles(words=("Lee", "Anna"), others=("anna lee",))).clean and not search([tmp_path], Needles(words=("Anna",))).clean


@pytest.mark.parametrize("name", ["artist", "file", "sha256", "notebook", "status"])
def test_a_name_that_is_a_word_of_the_format_takes_no_column_or_key_with_it(store: Store, root: Path, name: str) -> None:
    rows = [(f"{i}.png", photo(root / "data" / f"{i}.png", seed), who) for i, (seed, who) in enumerate([(1, name), (900, "noor")])]
    planted.table(root / "data" / "samples.csv", "file,sha256,artist", rows)
    text = json.dumps({"notebook": "n", "status": "complete", "artist": "noor", "file": "x"})
    (root / "x.json").write_text(text)
    store.add(record(name, rows[0][1]))
    answer = rights.forget(store, name, [root], look=LOOK)
    assert answer.clean and f"the word {name}" in answer.kept[0] and left(root) == ["data/1.png", "data/samples.csv", "x.json"]
    assert (root / "x.json").read_text() == text and (root / "data/samples.csv").read_text().startswith("file,sha256,artist\n1.png,")


def test_a_note_about_a_file_that_is_called_by_the_name_loses_it(store: Store, root: Path) -> None:
    digest = photo(root / "1.png", 1)
    store.add([record("mira", digest), record("client", note="letter mira-2024.pdf")])
    assert rights.forget(store, "mira", [root], look=LOOK).clean
    assert [each.note for each in store.book().records] == ["letter (forgotten)-2024.pdf"]


def test_a_root_that_itself_bears_the_name_is_refused_and_the_folder_above_is_not(store: Store, tmp_path: Path) -> None:
    photo(tmp_path / "all" / "mira" / "1.png", 1)
    store.add(record("mira"))
    with pytest.raises(HarnessError, match=r"name the folder above it: --in .*/all\."):
        rights.forget(store, "mira", [tmp_path / "all" / "mira"], look=LOOK)
    assert rights.forget(store, "mira", [tmp_path / "all"], look=LOOK).clean and left(tmp_path / "all") == []


# --- works of others -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tabled", [True, False])
@pytest.mark.parametrize(("who", "more"), [("client", {"rights_holder": "client"}), ("noor", {"depicted": "noor"})])
def test_whoever_had_a_word_on_anothers_work_does_not_take_it_along(store: Store, root: Path, tabled: bool, who: str, more: dict[str, str]) -> None:
    digest, copy = photo(root / "data" / "1.png", 1), planted.picture(1).resize((50, 50))
    (root / "copies").mkdir()
    copy.save(root / "copies" / "small.png")
    if tabled:
        planted.table(root / "data" / "samples.csv", "file,sha256,artist,depicts", [("1.png", digest, "painter", more.get("depicted", ""))])
    worn = planted.adapter(root / "adapter", [(digest, "painter")], 7)
    planted.avatars(root / "drawn", "x", worn, 50)
    store.add([record("painter", digest, **more), record(who, digest, adult="attested")])
    listed = {trace.path.relative_to(root).as_posix(): trace for trace in rights.withdraw(store, who, [root], True, look=LOOK).traces}
    assert listed["data/1.png"].action == "keep" and "may no longer be used" in listed["data/1.png"].why
    assert {"data/1.png", "copies/small.png"} <= set(left(root)) and not any(name.startswith(("adapter", "drawn/0")) for name in left(root))
    answer = rights.forget(store, who, [root], look=LOOK)
    assert answer.kept == (f"1 x a picture of painter {'that shows them' if 'depicted' in more else 'that they had a word on'}",) and (root / "data/1.png").exists()
    assert store.subjects() == ["painter"]


def test_the_owner_takes_their_work_whoever_else_had_a_word_on_it(store: Store, root: Path) -> None:
    digest = photo(root / "1.png", 1)
    store.add([record("mira", digest, rights_holder="client", depicted="noor"), record("client", digest), record("noor", digest, adult="attested"), record("zoe", digest)])
    rights.withdraw(store, "mira", [root], True, look=LOOK)
    assert left(root) == []


# --- what is listed is what is done ----------------------------------------------------------------------------------


def busy(store: Store, root: Path) -> None:
    digest = photo(root / "data" / "mira" / "1.png", 1)
    planted.table(root / "data" / "mira" / "samples.csv", "file,sha256,artist", [("1.png", digest, "mira")])
    (root / "other").mkdir()
    planted.picture(1).resize((50, 50)).save(root / "other" / "friend.jpg", quality=90)
    with zipfile.ZipFile(root / "crate.zip", "w") as crate:
        crate.write(root / "data" / "mira" / "1.png", "1.png")
        crate.writestr("n.txt", "x")
    (root / "page.html").write_text(f"<img src='{planted.uri(planted.picture(1))}'>")
    store.add(record("mira", digest))


def test_a_withdrawal_does_what_it_listed_and_nothing_else(store: Store, root: Path) -> None:
    busy(store, root)
    before = {path: sha256(root / path) for path in left(root)}
    found = rights.withdraw(store, "mira", [root], look=LOOK)
    listed = {trace.path.relative_to(root).as_posix(): trace.action for trace in found.traces}
    assert before == {path: sha256(root / path) for path in left(root)} and listed["other/friend.jpg"] == "delete" and listed["crate.zip"] == "rewrite"
    rights.withdraw(store, "mira", [root], True, look=LOOK)
    after = {path: sha256(root / path) for path in left(root)}
    assert {path for path in before if path not in after} == {path for path, action in listed.items() if action == "delete"}
    assert {path for path in after if before[path] != after[path]} == {path for path, action in listed.items() if action == "rewrite"}
    (stone,) = tombstones(root)
    assert stone["removed"] == {"copy": 1, "picture": 1, "table": 1} and stone["rewritten"] == {"archive": 1, "page": 1}


def test_a_file_that_came_after_the_list_is_not_touched(store: Store, root: Path) -> None:
    busy(store, root)
    plan, _ = forget.prepare(rights.target(store, "mira"), [root], forget.WITHDRAW, LOOK)
    shutil.copyfile(root / "other" / "friend.jpg", root / "other" / "later.jpg")
    (root / "crate.zip").unlink()
    forget.apply(plan, LOOK)
    assert left(root) == ["other/later.jpg", "page.html"] and forget.done(plan)[0]["picture"] == 1


def sealed(folder: Path, *names: str) -> Path:
    """A seal as docs/verify.md states it, unsigned."""
    import hashlib

    import rfc8785

    files = [{"path": name, "salt": "", "sha256": sha256(folder / name)} for name in sorted(names)]
    leaves = [hashlib.sha256(b"\0" + f"{f['sha256']} {f['salt']} {f['path']}".encode()).hexdigest() for f in files]
    signed = {"files": len(files), "key": "", "root": hashlib.sha256(b"\1" + bytes.fromhex("".join(leaves))).hexdigest(), "seal": 1}
    (folder / "seal.json").write_bytes(rfc8785.dumps({"files": files, "signature": "", "signed": signed}))
    return folder / "seal.json"


def test_a_seal_keeps_holding_where_files_went_and_is_listed_where_one_was_rewritten(store: Store, root: Path) -> None:
    from harness.report import verify

    busy(store, root)
    for name, other in (("gone", b"hi"), ("changed", f"<img src='{planted.uri(planted.picture(1))}'>".encode())):
        (root / name).mkdir()
        shutil.copyfile(root / "data" / "mira" / "1.png", root / name / "p.png")
        (root / name / "x.html").write_bytes(other)
        sealed(root / name, "p.png", "x.html")
        assert not verify.check(root / name).differs
    found = rights.withdraw(store, "mira", [root], True, look=LOOK)
    assert not verify.check(root / "gone").differs and "p.png" not in (root / "gone" / "seal.json").read_text() and not (root / "gone" / "p.png").exists()
    assert {trace.path.parent.name: (trace.action, trace.after) for trace in found.traces if trace.kind == "seal"} == {"gone": ("rewrite", ""), "changed": ("delete", "sign again")}
    assert not (root / "changed" / "seal.json").exists() and tombstones(root)[0]["sign_again"] == ["changed/seal.json"]
    with pytest.raises((KeyError, ValueError, TypeError)):
        seals.without(b'{"files": [{"path": "x"}]}', lambda path, digest: True)


def test_links_go_and_what_they_lead_to_outside_is_never_touched(store: Store, root: Path, tmp_path: Path) -> None:
    digest = photo(tmp_path / "outside" / "1.png", 1)
    (root / "l.png").symlink_to(tmp_path / "outside" / "1.png")
    inside = photo(root / "a" / "2.png", 900)
    (root / "to-2").symlink_to(root / "a" / "2.png")
    (root / "folder").symlink_to(tmp_path / "outside")
    planted.table(root / "samples.csv", "file,sha256,artist", [("l.png", digest, "mira"), ("folder/1.png", digest, "mira"), ("a/2.png", inside, "mira")])
    store.add(record("mira"))
    found = rights.withdraw(store, "mira", [root], True, look=LOOK)
    assert {trace.path.name for trace in found.traces if trace.kind == "link"} == {"l.png", "to-2"} and (tmp_path / "outside" / "1.png").exists()
    assert sorted(os.listdir(root)) == ["folder", "tombstones"]


# --- a no is heard whatever else is wrong ----------------------------------------------------------------------------


def withdrawn(store: Store, name: str) -> bool:
    return all(each.withdrawn for _, each in store.records(name))


def test_what_is_stuck_stands_in_nobodys_way_and_can_be_given_up(store: Store, root: Path) -> None:
    digest = photo(root / "1.png", 1)
    shutil.copyfile(root / "1.png", root / "1.tar")
    with tarfile.open(root / "old.tar", "w") as old:
        old.add(root / "1.png", "1.png")
    (root / "1.tar").unlink()
    store.add([record("mira", digest), record("noor")])
    with pytest.raises(HarnessError, match="old.tar"):
        rights.forget(store, "mira", [root], look=LOOK)
    said: list[dict] = []
    rights.withdraw(store, "noor", [root], look=LOOK, progress=said.append)
    assert withdrawn(store, "noor") and "holds from now on" in said[0]["note"] and any("not finished" in each["note"] and "--abandon" in each["note"] for each in said)
    assert [begun.subject for begun in rights.abandon(store, "Mira")] == ["mira"] and not store.intents.open() and rights.abandon(store, "mira") == []


def test_a_missing_folder_delays_no_withdrawal_and_no_other_plan(store: Store, root: Path, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    digest = photo(tmp_path / "away" / "1.png", 1)
    store.add([record("mira", digest), record("noor")])
    store.intents.begin("forget", "mira", asdict(forget.intend(rights.target(store, "mira"), [tmp_path / "away", root], forget.FORGET, LOOK)))
    shutil.rmtree(tmp_path / "away")
    said: list[dict] = []
    rights.withdraw(store, "noor", [tmp_path / "nowhere", root], look=LOOK, progress=said.append)
    assert withdrawn(store, "noor") and not store.intents.open() and store.subjects() == ["noor"]
    assert any("nowhere: no such folder" in each["note"] for each in said if "note" in each) and any("away is not there" in each["note"] for each in said if "note" in each)


def test_a_broken_picture_delays_no_withdrawal_and_goes_by_its_hash(store: Store, root: Path) -> None:
    (root / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    planted.table(root / "samples.csv", "file,sha256,artist", [("1.png", sha256(root / "1.png"), "mira")])
    store.add(record("mira", sha256(root / "1.png")))
    rights.withdraw(store, "mira", [root], leave_hashes=True, look=LOOK)
    assert withdrawn(store, "mira")
    rights.withdraw(store, "mira", [root], True, look=LOOK)
    assert left(root) == []


def test_hashes_are_left_by_whom_nobody_knew_and_after_a_withdrawal_too(store: Store, root: Path) -> None:
    for name, seed in (("mira", 1), ("zoe", 900)):
        planted.table(root / name / "samples.csv", "file,sha256,artist", [("1.png", photo(root / name / "1.png", seed), name)])
    store.add(record("mira"))
    rights.withdraw(store, "mira", [root], look=LOOK)
    rights.withdraw(store, "mira", [root], leave_hashes=True, look=LOOK)
    rights.withdraw(store, "zoe", [root], leave_hashes=True, look=LOOK)
    assert {work for work, _ in store.book().left} == {sha256(root / "mira/1.png"), sha256(root / "zoe/1.png")} and withdrawn(store, "mira")


def test_a_work_is_withdrawn_by_whom_the_caller_names_and_from_the_uses_that_they_name(store: Store, root: Path) -> None:
    digest = photo(root / "1.png", 1)
    planted.table(root / "samples.csv", "file,sha256,artist", [("1.png", digest, "mira")])
    with pytest.raises(HarnessError, match="--subject NAME"):
        rights.withdraw(store, digest, [root], look=LOOK)
    rights.withdraw(store, digest, [root], True, subject="client", look=LOOK)
    assert store.subjects() == ["client"] and (root / "1.png").exists()
    store.add(record("mira", digest))
    rights.withdraw(store, "mira", [root], True, uses=["cawg.data_mining"], look=LOOK)
    assert (root / "1.png").exists() and not [r for _, r in store.records("mira") if r.use == USE and r.withdrawn]
    rights.withdraw(store, "mira", [root], True, look=LOOK)
    assert not (root / "1.png").exists()


def test_who_withdrew_can_still_be_forgotten(store: Store, root: Path) -> None:
    planted.photos(root, "mira", 1)
    store.add(record("mira"))
    rights.withdraw(store, "mira", [root], True, look=LOOK)
    assert tombstones(root)[0]["subject"] == "mira"
    assert rights.forget(store, "mira", [root], look=LOOK).clean
    assert len(tombstones(root)) == 2 and not any("mira" in json.dumps(stone) for stone in tombstones(root))


# --- damaged files, and what cannot be looked into -------------------------------------------------------------------


DAMAGED = {"bad.npz": b"PK\3\4garbage", "bad.safetensors": (1000).to_bytes(8, "little") + b'{"a":1', "list.safetensors": (2).to_bytes(8, "little") + b"[]",
           "meta.safetensors": (25).to_bytes(8, "little") + b'{"__metadata__":{"a":5}}  ', "manifest.json": b'{"notebook":1,"status":"running","process":"x"}',
           "deep.json": b"[" * 5000, "deep.ipynb": b'{"a":' * 3000, "bad.png": b"\x89PNG\r\n\x1a\nbroken", "bad.zip": b"PK\3\4broken"}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("theirs", [False, True])
def test_a_damaged_file_stops_nothing_and_is_never_passed_over(store: Store, root: Path, name: str, theirs: bool) -> None:
    (root / name).write_bytes(DAMAGED[name])
    works = planted.photos(root, "mira", 1)
    store.add([*(record("mira", work) for work in works), *([record("mira", sha256(root / name))] if theirs else []), record("noor")])
    rights.withdraw(store, "mira", [root], True, look=LOOK)
    assert left(root) == ([] if theirs else [name])
    answer = rights.forget(store, "mira", [root], look=LOOK)
    assert answer.clean or name in answer.unread[0]
    assert theirs or name in ("manifest.json", "meta.safetensors", "list.safetensors", "deep.json", "deep.ipynb") or not answer.clean


def boxes(raw: bytes, root: Path) -> dict[str, Callable[[Path], object]]:
    """Ways to write a picture into another file."""
    def tarred(mode: str) -> Callable[[Path], object]:
        def write(path: Path) -> None:
            with tarfile.open(path, f"w{mode}") as box:
                info = tarfile.TarInfo("0001.png")
                info.size = len(raw)
                box.addfile(info, io.BytesIO(raw))
        return write

    def blob(path: Path) -> None:
        file = sqlite3.connect(path)
        file.execute("CREATE TABLE t (b BLOB)")
        file.execute("INSERT INTO t VALUES (?)", (raw + bytes(9000),))
        file.commit()
        file.close()

    jpeg = io.BytesIO()
    planted.picture(1).save(jpeg, "JPEG", quality=90)
    return {"a.tar": tarred(""), "a.tar.gz": tarred(":gz"), "a.tar.bz2": tarred(":bz2"), "a.tar.xz": tarred(":xz"), "a.sqlite": blob,
            "a.pkl": lambda path: path.write_bytes(b"\x80\4\x95" + bytes(8) + b"B" + raw + b"."), "a.pdf": lambda path: path.write_bytes(b"%PDF-1.4\nstream\n" + jpeg.getvalue() + b"\nendstream"),
            "a.npy": lambda path: np.save(path, np.asarray(planted.picture(1))), "stack.npy": lambda path: np.save(path, np.stack([np.asarray(planted.picture(s)) for s in (8, 1)]) / 255),
            "after.bin": lambda path: path.write_bytes(b"\1" * 77 + raw), "tail.zip": lambda path: path.write_bytes(b"\1" * 77 + zipped(raw))}


def zipped(raw: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as box:
        box.writestr("a.bmp", raw)
    return buffer.getvalue()


@pytest.mark.parametrize("name", [*boxes(b"", Path()), "consent.db.bak"])
def test_a_photo_inside_of_another_file_is_found(store: Store, root: Path, name: str) -> None:
    digest = photo(root / "photos" / "1.png", 1)
    store.add(record("mira", digest))
    if name == "consent.db.bak":
        with open_store(root / "consent.db", store.key, create=True) as own:
            own.add(record("mira", digest))
        shutil.copy(root / "consent.db", root / name)
        with open_store(root / "consent.db", store.key) as own:
            with pytest.raises(HarnessError, match=r"first is .*consent\.db\.bak"):
                rights.forget(own, "mira", [root], look=LOOK)
        return
    boxes((root / "photos" / "1.png").read_bytes(), root)[name](root / name)
    with pytest.raises(HarnessError, match=rf"traces of mira are left, the first is .*{name}"):
        rights.forget(store, "mira", [root], look=LOOK)


@pytest.mark.parametrize(("name", "data"), [("a.7z", b"7z\xbc\xaf\x27\x1c" + bytes(50)), ("a.zst", b"\x28\xb5\x2f\xfd" + bytes(50)), ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(50)),
                                            ("a.mp4", b"\0\0\0\x18ftypisom" + bytes(50)), ("a.pkl", b"\x80\4\x95" + bytes(8) + b"]."), ("a.gz", b"\x1f\x8b\x08broken"),
                                            ("a.pgp", b"-----BEGIN PGP MESSAGE-----"), ("a.jpg", b"\xff\xd8\xff\xe0torn"), ("a.sqlite", b"SQLite format 3\0torn")])
def test_what_cannot_be_looked_into_is_said(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    answer = search([tmp_path], Needles(near=(planted.describe(planted.picture(1)),)), planted.describe, planted.alike)
    assert not answer.hits and not answer.clean and name in answer.unread[0]


def test_a_member_of_an_archive_that_bears_their_name_goes(tmp_path: Path) -> None:
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w") as out:
        out.writestr("photos/mira/1.png", planted.png(planted.picture(1)))
        out.writestr("photos/noor/1.png", planted.png(planted.picture(2)))
    cleaned = Scrub(frozenset(), ("mira",)).clean("x.zip", box.getvalue())
    assert zipfile.ZipFile(io.BytesIO(cleaned)).namelist() == ["photos/noor/1.png"]


def test_the_list_of_kept_photos_does_not_name_them_afterwards(store: Store, root: Path) -> None:
    from harness.consent import kept, retention

    for name, seed in (("mira", 1), ("noor", 900)):
        photo(root / "photos" / name / "1.png", seed)
        retention.keep(store, name, [root / "photos" / name / "1.png"], [root])
    assert "mira" in kept.notice().read_text()
    assert rights.forget(store, "mira", [root], look=LOOK).clean
    assert "mira" not in kept.notice().read_text() and "noor" in kept.notice().read_text() and os.path.exists(root / "photos/noor/1.png")
