"""Withdraw, forget, export: one person goes from everything, the other stays, and a kill at any step costs nothing."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import shutil
import signal
import socket
import sqlite3
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planted
from harness import cli
from harness.consent import forget, keys, rights, tombstone
from harness.consent.forget import Eyes
from harness.consent.ledger import Record
from harness.consent.reach import Target
from harness.consent.scrub import GONE, PLACEHOLDER, Scrub
from harness.consent.search import Needles, search
from harness.consent.store import Store, open_store
from harness.errors import HarnessError, Refused
from harness.images import sha256

LOOK = Eyes(planted.describe, planted.alike)
RUN = Path("results/runs/02_avatars-abc123")
USE = "cawg.ai_generative_training"


@dataclass
class World:
    """A planted folder with a ledger inside."""

    root: Path
    ledger: Path
    key: keys.Key
    hashes: dict[str, dict[str, list[str]]]
    needles: dict[str, Needles]

    def open(self) -> Store:
        return open_store(self.ledger, self.key)

    def left(self, name: str) -> set[str]:
        """Places, relative, where something of a person is."""
        hits = search([self.root], self.needles[name], planted.describe, planted.alike).hits
        return {os.path.relpath(hit.place.replace(" (its name)", ""), self.root) for hit in hits}


def record(name: str, work: str, **more: str) -> Record:
    return Record(name, work, USE, "allowed", "a letter", "2024-01-01", **more)


def build(root: Path) -> World:
    hashes = planted.plant(root)
    key = keys.create(root.parent / "key.pem")
    with open_store(root / "consent.db", key, create=True) as store:
        for name in planted.NAMES:
            photos = {work: planted.describe(planted.decode(root / "photos" / name / f"{i}.png")) for i, work in enumerate(hashes[name]["photos"])}
            store.add([record(name, work, adult="attested") for work in photos], photos)
        store.add(record("client", "*", depicted="mira; noor"))
    needles = {}
    for name in planted.NAMES:
        plan = forget.intend(Target(frozenset(), name), [root], forget.FORGET, LOOK)
        needles[name] = rights.needles_of(plan)
    return World(root, root / "consent.db", key, hashes, needles)


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("forget") / "root"
    folder.mkdir()
    return build(folder)


@pytest.fixture
def world(master: World, tmp_path: Path) -> World:
    shutil.copytree(master.root, tmp_path / "root")
    return World(tmp_path / "root", tmp_path / "root" / "consent.db", master.key, master.hashes, master.needles)


def gone(world: World) -> None:
    """Nothing of one, and of the other all that was theirs alone."""
    assert world.left("mira") == set()
    run = world.root / RUN
    for name in ("photos/noor/0.png", f"{RUN}/adapter-noor/pytorch_lora_weights.safetensors", f"{RUN}/adapter-noor/checkpoint.safetensors",
                 f"{RUN}/avatars-noor/2.png", "photos/noor/samples.csv", f"{RUN}/base/1.png", f"{RUN}/avatars-noor/samples.csv", "elsewhere/crop-200.png", "elsewhere/small-200.jpg"):
        assert (world.root / name).is_file(), name
    assert len(list((run / "adapter-noor" / "latents").iterdir())) == 3
    with np.load(run / "embeddings" / "clip-cccc.npz") as stored:
        assert list(stored["sha256"]) == world.hashes["noor"]["photos"] + world.hashes["noor"]["avatars"] and len(stored["vectors"]) == 6
    assert "mira" not in (run / "works.csv").read_text() and (run / "works.csv").read_text().count("noor") == 3
    assert not (run / "base" / "0.png").exists() and len((run / "base" / "samples.csv").read_text().splitlines()) == 2
    with zipfile.ZipFile(world.root / "elsewhere" / "crate.zip") as crate:
        assert crate.namelist() == ["photos/noor.png"]
    with world.open() as store:
        assert store.verify_chain().ok and store.subjects() == ["client", "noor"] and not store.intents.open()
        assert len(store.records("noor")) == 3 and len(store.descriptors("noor")) == 3


def test_nothing_of_one_is_left_and_everything_of_the_other(world: World) -> None:
    before = world.left("noor")
    assert len(world.left("mira")) > 40
    with world.open() as store:
        answer = rights.forget(store, "mira", [world.root], look=LOOK)
        assert not answer.hits and answer.sentence().startswith("nothing was found in")
        gone(world)
    lost = {place for place in before - world.left("noor") if "consent.db" not in place}
    together = {place for place in lost if place.startswith("models/together/")}
    assert together == {"models/together/pytorch_lora_weights.safetensors", "models/together/checkpoint.safetensors", "models/together/manifest.json"}
    # a sheet that shows both cannot stay; the pictures on it are there still
    assert lost - together == {f"{RUN}/notebook.ipynb!picture 3!cell at 112, 8", f"{RUN}/report.html!picture 3!cell at 112, 8"}


def test_pages_keep_the_thumbnail_of_the_other(world: World) -> None:
    with world.open() as store:
        rights.forget(store, "mira", [world.root], look=LOOK)
    book = json.loads((world.root / RUN / "notebook.ipynb").read_text())
    shown = [cell["outputs"][0]["data"]["image/png"].strip() for cell in book["cells"]]
    assert [code == PLACEHOLDER for code in shown] == [True, False, True] and book["cells"][0]["source"] == [f"subject = '{GONE}'\n"]
    assert base64.b64decode(shown[1]) == planted.png(planted.picture(200).resize((32, 32)))
    assert (world.root / RUN / "report.html").read_text().count(PLACEHOLDER) == 2


def test_the_run_says_that_it_no_longer_stands_and_its_hashes_are_those_of_its_files(world: World) -> None:
    with world.open() as store:
        rights.forget(store, "mira", [world.root], look=LOOK)
    manifest = json.loads((world.root / RUN / "manifest.json").read_text())
    assert manifest["status"] == "failed" and "consent was withdrawn" in manifest["error"]["reason"] and manifest["report"] == "report.html"
    assert manifest["parameters"]["resolved"]["subjects"] == [GONE, "noor"]
    assert manifest["outputs"] and all(sha256(world.root / RUN / name) == digest for name, digest in manifest["outputs"].items())
    assert not (world.root / RUN / "seal.json").exists()


def test_a_tombstone_is_signed_and_says_nothing_of_whom(world: World) -> None:
    with world.open() as store:
        rights.forget(store, "mira", [world.root], look=LOOK)
    (path,) = (world.root / "tombstones").iterdir()
    held, text = tombstone.read(path), path.read_text()
    assert held["kind"] == "forget" and held["signer"] == world.key.fingerprint and held["removed"]["picture"] == 3
    assert "mira" not in text and not any(work in text for each in world.hashes["mira"].values() for work in each)
    assert {work for again in held["retrain"] for work in again["works_left"]} == set(world.hashes["noor"]["photos"])
    path.write_text(text.replace('"picture": 3', '"picture": 2'))
    with pytest.raises(HarnessError, match="changed after it was signed"):
        tombstone.read(path)


def in_child(work: Callable[[Callable[[Mapping[str, Any]], None]], None], at: int) -> bool:
    """Run in a child that kills itself at the `at`-th thing that it says; was it killed?"""
    count = 0

    def progress(event: Mapping[str, Any]) -> None:
        nonlocal count
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    child = os.fork()
    if not child:
        try:
            work(progress)
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or status == 0, "the work itself failed"
    return os.WIFSIGNALED(status)


def steps(world: World) -> int:
    """How many things a whole forgetting says."""
    said: list[Any] = []
    with world.open() as store:
        rights.forget(store, "mira", [world.root], look=LOOK, progress=said.append)
    return len(said)


def test_a_kill_at_every_step_is_finished_by_the_next_call(master: World, tmp_path: Path) -> None:
    def fresh(name: str) -> World:
        shutil.copytree(master.root, tmp_path / name / "root")
        return World(tmp_path / name / "root", tmp_path / name / "root" / "consent.db", master.key, master.hashes, master.needles)

    def work(world: World) -> Callable[[Callable], None]:
        def run(progress: Callable[[Mapping[str, Any]], None]) -> None:
            with world.open() as store:
                rights.forget(store, "mira", [world.root], look=LOOK, progress=progress)
        return run

    n = steps(fresh("count"))
    assert n > 35
    for at in range(n):
        world = fresh(str(at))
        assert in_child(work(world), at)
        with world.open() as store:
            if "mira" in store.subjects():  # else the kill came after the last step that holds a name
                rights.forget(store, "mira", [world.root], look=LOOK)
            else:
                rights.resume(store, LOOK)
        gone(world)
        shutil.rmtree(tmp_path / str(at))


@pytest.mark.parametrize("after", ["before the rename", "after half of the bytes"])
def test_a_kill_inside_a_write_leaves_no_half_file(world: World, after: str) -> None:
    real, count = os.replace, 0

    def replace(source: str, target: str) -> None:
        nonlocal count
        count += 1
        if count == 3:
            if after == "after half of the bytes":
                Path(source).write_bytes(Path(source).read_bytes()[:50])
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    def run(progress: Callable) -> None:
        os.replace = replace
        with world.open() as store:
            rights.forget(store, "mira", [world.root], look=LOOK)

    assert in_child(run, 10**6) and list(world.root.rglob(".*.tmp"))
    with world.open() as store:
        rights.forget(store, "mira", [world.root], look=LOOK)
    gone(world)
    assert not list(world.root.rglob(".*.tmp"))


def test_what_cannot_be_cleaned_is_named_and_the_intent_stays(world: World) -> None:
    stranger = world.root / "other.sqlite"
    with sqlite3.connect(stranger) as file:
        file.execute("CREATE TABLE a AS SELECT 'seen with mira' AS b")
    file.close()
    with world.open() as store:
        with pytest.raises(HarnessError, match=r"traces of mira are left, the first is .*other\.sqlite"):
            rights.forget(store, "mira", [world.root], look=LOOK)
        assert len(store.intents.open()) == 1
        stranger.unlink()
        rights.forget(store, "mira", [world.root], look=LOOK)
    gone(world)


def test_somebody_whom_nobody_knows_and_a_run_at_work_are_refused(world: World) -> None:
    manifest = world.root / RUN / "manifest.json"
    with world.open() as store:
        with pytest.raises(HarnessError, match="check its spelling"):
            rights.forget(store, "nobody", [world.root], look=LOOK)
        with pytest.raises(HarnessError, match="too short"):
            rights.forget(store, "mira", [world.root], ["mi"], LOOK)
        held = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(held | {"status": "running", "process": {"pid": os.getppid(), "host": socket.gethostname()}}))
        with pytest.raises(Refused, match="at work"):
            rights.forget(store, "mira", [world.root], look=LOOK)
        with pytest.raises(Refused, match="at work"):
            rights.withdraw(store, "noor", [world.root], apply=True, look=LOOK)
        assert all(held.withdrawn for _, held in store.records("noor"))  # the no holds all the same
        assert not store.intents.open() and len(world.left("mira")) > 40


def test_a_picture_that_a_table_gives_to_another_stays_whatever_it_looks_like(world: World) -> None:
    twin = planted.picture(100).resize((60, 60))
    digest = planted.save_png(world.root / "twins" / "0.png", twin)
    planted.table(world.root / "twins" / "samples.csv", "file,sha256,subject", [("0.png", digest, "zoe")])
    with world.open() as store:
        with pytest.raises(HarnessError, match="twins"):
            rights.forget(store, "mira", [world.root], look=LOOK)
    assert (world.root / "twins" / "0.png").is_file()


# --- withdrawing -----------------------------------------------------------------------------------------------------


def test_withdrawing_holds_at_once_and_changes_no_file_until_it_is_applied(world: World) -> None:
    before = {path: sha256(path) for path in world.root.rglob("*") if path.is_file() and "consent.db" not in path.name}
    with world.open() as store:
        found = rights.withdraw(store, "noor", [world.root], look=LOOK)
        assert found.counts()["picture"] == 3 and all(record.withdrawn for _, record in store.records("noor"))
    assert before == {path: sha256(path) for path in world.root.rglob("*") if path.is_file() and "consent.db" not in path.name}
    with world.open() as store:
        rights.withdraw(store, "noor", [world.root], apply=True, look=LOOK)
        assert [event.kind for event in store.history("noor")].count("withdrawal") == 1
        assert any(event.kind == "tombstone" for event in store.history("noor")) and store.verify_chain().ok
    assert not (world.root / "photos/noor").exists() and not (world.root / RUN / "adapter-noor").exists() and (world.root / RUN / "adapter-mira").exists()
    (stone,) = (world.root / "tombstones").iterdir()
    held = tombstone.read(stone)
    assert held["subject"] == "noor" and held["works"] == sorted(world.hashes["noor"]["photos"]) and held["run_again"] == [str(RUN)]
    assert held["sign_again"] and "noor" in (world.root / RUN / "findings.csv").read_text()


def test_who_never_said_anything_is_entered_as_a_no(world: World) -> None:
    planted.photos(world.root, "zoe", 900)
    with world.open() as store:
        rights.withdraw(store, "zoe", [world.root], apply=True, why="a mail", look=LOOK)
        assert [record.decision for _, record in store.records("zoe")] == ["notAllowed"] * 4
    assert not (world.root / "photos" / "zoe").exists()


def test_links_and_caches_that_name_nobody_are_seen_to(world: World) -> None:
    (world.root / "elsewhere" / "a").symlink_to(world.root / "photos" / "mira" / "0.png")
    (world.root / "elsewhere" / "b").symlink_to(world.root / "photos" / "noor")
    planted.tensors(world.root / "shared" / "latents" / f"{'d' * 64}.safetensors", 4, {})
    with world.open() as store:
        rights.forget(store, "mira", [world.root], look=LOOK)
    assert os.listdir(world.root / "elsewhere") and not (world.root / "elsewhere" / "a").is_symlink() and (world.root / "elsewhere" / "b").is_symlink()
    assert not (world.root / "shared").exists() and (world.root / "photos" / "noor" / "0.png").is_file()
    gone(world)


def test_one_work_is_withdrawn_and_may_leave_its_hash_behind(world: World) -> None:
    work = world.hashes["mira"]["photos"][0]
    with world.open() as store:
        rights.withdraw(store, work, [world.root], apply=True, leave_hashes=True, look=LOOK)
        assert dict(store.book().left).keys() == {work}
    assert sorted(path.name for path in (world.root / "photos/mira").iterdir()) == ["1.png", "2.png", "samples.csv"]
    assert not (world.root / "elsewhere/crop-100.png").exists() and (world.root / RUN / "avatars-noor/0.png").exists()


def test_a_withdrawal_killed_in_the_middle_is_finished_by_the_next_command(world: World) -> None:
    def run(progress: Callable) -> None:
        with world.open() as store:
            rights.withdraw(store, "noor", [world.root], apply=True, look=LOOK, progress=progress)

    assert in_child(run, 12)
    with world.open() as store:
        assert store.intents.open()
        rights.resume(store, LOOK)
        assert not store.intents.open()
        assert [event.kind for event in store.history("noor")].count("tombstone") == 1
    assert not world.left("noor") & {f"photos/noor/{i}.png" for i in range(3)} and (world.root / "photos/mira/0.png").exists()


def test_an_export_holds_everything_and_can_be_read(world: World, tmp_path: Path) -> None:
    with world.open() as store:
        held = rights.export(store, "mira", [world.root], tmp_path / "mira")
        with pytest.raises(HarnessError, match="choose a new folder"):
            rights.export(store, "mira", [world.root], world.root / "inside")
    rows = list(csv.DictReader(io.StringIO(held.read_text())))
    assert {row["kind"] for row in rows} >= {"picture", "drawn", "adapter", "latents", "table", "report"}
    copied = {sha256(tmp_path / "mira" / row["copied"]) for row in rows if row["copied"]}
    assert copied >= {*world.hashes["mira"]["photos"], *world.hashes["mira"]["avatars"], *world.hashes["mira"]["adapter"]}
    assert not copied & set(world.hashes["noor"]["photos"])
    records = json.loads((tmp_path / "mira" / "records.json").read_text())
    assert len(records["records"]) == 3 and records["named_in_entries"]
    tables = [tmp_path / "mira" / row["copied"] for row in rows if row["kind"] == "table"]
    assert len(tables) == 3 and not any("noor" in table.read_text() for table in tables)


# --- taking out, file by file ----------------------------------------------------------------------------------------

SCRUB = Scrub(frozenset({"a" * 64}), ("Mira",))


@pytest.mark.parametrize(("name", "data", "kept"), [
    ("x.csv", b"file,sha256,subject\n1.png," + b"a" * 64 + b",x\n2.png," + b"b" * 64 + b",Mira\n3.png," + b"c" * 64 + b",x\n",
     b"file,sha256,subject\n3.png," + b"c" * 64 + b",x\n"),
    ("x.csv", b"sha256,nearest\n" + b"b" * 64 + b"," + b"a" * 64 + b"\n", b"sha256,nearest\n" + b"b" * 64 + b",removed\n"),
    ("x.json", b'{"a": ["' + b"a" * 64 + b'", 1.50, "by \\u004dira"]}', b'{"a": ["removed", 1.5, "by removed"]}'),
    ("x.json", b'{"n": 1.50}', b'{"n": 1.50}'), ("x.json", b'{"n": "Mira"', b'{"n": "removed"'),
    ("x.md", "Mira, MIRA, Miracle, admira, mira_1".encode(), b"removed, removed, Miracle, admira, removed_1"), ("x.txt", b"\xe9 Mira", b"\xe9 removed"),
    ("x.bin", b"\0\1Mira", b"\0\1Mira"), ("x.zip", b"PK\3\4broken", b"PK\3\4broken"), ("x.html", b"<i>" + b"a" * 64 + b"f</i>", b"<i>" + b"a" * 64 + b"f</i>")])
def test_a_file_without_somebody(name: str, data: bytes, kept: bytes) -> None:
    assert SCRUB.clean(name, data) == kept and SCRUB.clean(name, kept) == kept


def test_a_list_of_files_that_were_all_theirs_goes_and_an_adapter_of_others_loses_the_name_only(tmp_path: Path) -> None:
    from safetensors.numpy import load

    assert SCRUB.clean("x.csv", b"file,sha256\n1.png," + b"a" * 64 + b"\n") is None
    path = planted.tensors(tmp_path / "x.safetensors", 1, {"likeness": json.dumps({"images": [{"sha256": "b" * 64, "caption": "with Mira"}]})})
    cleaned = SCRUB.clean(path.name, path.read_bytes())
    assert b"Mira" not in cleaned and b"with removed" in cleaned
    assert all((load(cleaned)[name] == held).all() for name, held in load(path.read_bytes()).items())


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def commands(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.chdir(world.root)
    monkeypatch.setenv("HARNESS_KEY", str(world.key.path))
    monkeypatch.setenv("HARNESS_KEPT", str(world.root.parent / "kept.json"))
    monkeypatch.setattr(forget, "eyes", lambda: LOOK)
    yield world


def test_the_commands_from_record_to_forget(commands: World, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> tuple[int, str]:
        code = cli.main(["consent", *words])
        seen = capsys.readouterr()
        return code, seen.out + seen.err

    places = ("--in", "photos", "--in", "results", "--in", "models", "--in", "elsewhere", "--in", "cache")
    said = ("--use", USE, "--decision", "notAllowed", "--basis", "a mail", "--granted", "2025-01-01")
    assert run("record", "--subject", "zoe", "--sha256", "photos/noor/0.png", *said)[0] == 0
    assert commands.hashes["noor"]["photos"][0][:12] in run("show", "consent.db", "zoe")[1]
    assert run("verify") == (0, run("verify")[1]) and "unchanged, signer unknown" in run("verify")[1]
    assert "unchanged, signed by" in run("verify", "--key", commands.key.fingerprint)[1]
    code, text = run("reach", "mira", *places)
    assert code == 0 and "retrain" in text and "photos/mira/0.png" in text and (commands.root / "photos/mira/0.png").exists()
    assert run("export", "--out", "all.json")[0] == 0 and run("import", "all.json")[1].endswith("8 were there already\n")
    assert run("export", "mira", "--out", "../mira", *places)[0] == 0
    assert run("search", "--photo", "photos/mira/0.png", "--word", "mira", *places)[0] == 1
    shutil.copyfile("photos/mira/0.png", "../mira.png")
    os.unlink("all.json")
    code, text = run("forget", "mira", *places)
    assert code == 0 and "nothing was found in" in text
    assert run("search", "--photo", "../mira.png", "--word", "mira", *places) == (0, run("search", "--photo", "../mira.png", "--word", "mira", *places)[1])
    assert run("verify", "photos")[1].endswith("1 tombstone\n") and run("verify", "consent.db")[0] == 0
    code, text = run("withdraw", "noor", "--apply", *places)
    assert code == 0 and "taken out, with signed tombstones" in text and run("sweep") == (0, "")


@pytest.mark.parametrize(("words", "said"), [
    (("forget", "zoe", "--in", "photos"), "check its spelling"), (("withdraw", "zoe", "--in", "photos"), "there is nothing about zoe"),
    (("reach", "mira", "--in", "nowhere"), "no such folder"), (("search", "--in", "photos"), "say what to look for"),
    (("verify", "photos/noor/0.png"), "not a tombstone"), (("withdraw", "f" * 64, "--in", "photos"), "no record is on the work"),
    (("withdraw", "mira", "--ledger", "none.db", "--in", "photos"), "there is no ledger"), (("forget", "mira", "--in", "nowhere"), "no such folder")])
def test_a_command_that_cannot_be_done_says_why_in_one_sentence(commands: World, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["consent", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1 and (commands.root / "photos/mira/0.png").exists()


def test_it_works_with_the_descriptors_that_are_shipped(tmp_path: Path, master: World) -> None:
    """The crop, the mirrored JPEG and the thumbnail are found by harness.perceptual; a descriptor of another version is no obstacle."""
    root = tmp_path / "root"
    works = {name: planted.photos(root, name, start) for name, start in (("mira", 100), ("noor", 200))}
    planted.loose(root, {"mira": 100, "noor": 200})
    with open_store(tmp_path / "consent.db", master.key, create=True) as store:
        store.add(record("mira", works["mira"][0], adult="attested"), {works["mira"][0]: b"of another version"})
        answer = rights.forget(store, "mira", [root])
    assert not answer.hits and answer.pictures > 5
    assert sorted(path.name for path in (root / "elsewhere").iterdir()) == ["crate.zip", "crop-200.png", "noor-notes.md", "removed-notes.md", "small-200.jpg"]
    assert len(list((root / "photos" / "noor").glob("*.png"))) == 3 and PLACEHOLDER in (root / "elsewhere" / "removed-notes.md").read_text()
