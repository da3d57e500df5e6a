"""What a work reached is found by what files say, to the end of the chain; the search finds what nobody says."""

from __future__ import annotations

import base64
import gzip
import io
import json
import sqlite3
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import planted
from harness.consent import files, look, reach
from harness.consent.reach import Target
from harness.consent.search import Needles, search
from harness.errors import HarnessError

RUN = Path("results/runs/02_avatars-abc123")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, list[str]]]]:
    root = tmp_path_factory.mktemp("reach")
    return root, planted.plant(root)


def places(found: reach.Reach, root: Path, kind: str) -> set[str]:
    return {trace.path.relative_to(root).as_posix() for trace in found.traces if trace.kind == kind}


def test_everything_that_a_person_reached_is_listed_with_what_is_to_be_done(world: tuple) -> None:
    root, hashes = world
    found = reach.find(Target(frozenset(), "mira"), [root])
    assert found.target.works == frozenset(hashes["mira"]["photos"])
    assert places(found, root, "picture") == {f"photos/mira/{i}.png" for i in range(3)}
    assert places(found, root, "drawn") == {f"{RUN}/avatars-mira/{i}.png" for i in range(3)}
    assert {path for path in places(found, root, "adapter") if path.endswith("weights.safetensors")} == {
        f"{RUN}/adapter-mira/pytorch_lora_weights.safetensors", "models/together/pytorch_lora_weights.safetensors"}
    assert places(found, root, "checkpoint") == {f"{RUN}/adapter-mira/checkpoint.safetensors", "models/together/checkpoint.safetensors"}
    assert len(places(found, root, "latents")) == 6
    assert places(found, root, "table") == {"photos/mira/samples.csv", f"{RUN}/works.csv", f"{RUN}/avatars-mira/samples.csv"}
    actions = {trace.path.relative_to(root).as_posix(): (trace.action, trace.after) for trace in found.traces}
    assert actions["cache/only-mira.npz"][0] == "delete" and actions["cache/clip-cccc.npz"][0] == "rewrite"
    assert actions[f"{RUN}/manifest.json"] == ("rewrite", "run again") and actions[f"{RUN}/report.html"] == ("rewrite", "sign again")
    assert actions["models/together/pytorch_lora_weights.safetensors"] == ("delete", "retrain")
    assert not any("noor" in path for path in actions)


def test_an_adapter_is_to_be_trained_again_with_the_works_of_the_others(world: tuple) -> None:
    root, hashes = world
    again = {Path(each["adapter"]).parent.name: each for each in reach.find(Target(frozenset(), "mira"), [root]).retrain}
    assert again["together"]["works_left"] == hashes["noor"]["photos"] and again["together"]["works_taken_out"] == 3
    assert again["adapter-mira"]["works_left"] == [] and again["together"]["settings"] == {"rank": 8}


def test_one_work_reaches_what_came_from_it_and_not_the_subjects_other_works(world: tuple) -> None:
    root, hashes = world
    found = reach.find(Target(frozenset(hashes["mira"]["photos"][:1])), [root])
    assert places(found, root, "picture") == {"photos/mira/0.png"} and len(places(found, root, "latents")) == 2
    assert len(places(found, root, "drawn")) == 3


def test_a_record_on_all_works_is_no_hash(tmp_path: Path) -> None:
    planted.photos(tmp_path, "mira", 1)
    planted.table(tmp_path / "consent.csv", "subject,sha256", [("mira", "*")])
    assert all(files.is_hash(work) for work in reach.find(Target(frozenset(), "mira"), [tmp_path]).tainted)


def test_the_chain_is_followed_to_its_end(tmp_path: Path) -> None:
    """work → adapter → avatar → second adapter → its picture → a picture made from that one."""
    work = planted.photos(tmp_path, "mira", 1)
    first = planted.adapter(tmp_path / "a1", [(work[0], "mira")], 1)
    drawn = planted.avatars(tmp_path / "d1", "x", first, 50)
    second = planted.adapter(tmp_path / "a2", [(drawn[0], "x")], 2)
    later = planted.avatars(tmp_path / "d2", "y", second, 70)
    planted.table(tmp_path / "d3" / "samples.csv", "file,sha256,init_sha256", [("z.png", planted.save_png(tmp_path / "d3" / "z.png", planted.picture(90)), later[0])])
    planted.avatars(tmp_path / "d4", "y", "e" * 64, 110)
    found = reach.find(Target(frozenset(work)), [tmp_path])
    assert places(found, tmp_path, "drawn") == {*(f"d1/{i}.png" for i in range(3)), *(f"d2/{i}.png" for i in range(3)), "d3/z.png"}


def test_caches_that_name_no_picture_go_with_their_training_and_are_otherwise_undecided(tmp_path: Path) -> None:
    work = {name: planted.photos(tmp_path, name, 100 * i) for i, name in enumerate(planted.NAMES)}
    for name in planted.NAMES:
        planted.adapter(tmp_path / name, [(h, name) for h in work[name]], 3, labelled=False)
    stray = planted.tensors(tmp_path / "shared" / "latents" / f"{'d' * 64}.safetensors", 4, {})
    killed = planted.tensors(tmp_path / "killed" / "checkpoint.safetensors", 5, {"fingerprint": "1" * 64}, ("parameter.a",))
    found = reach.find(Target(frozenset(), "mira"), [tmp_path])
    assert {Path(path).parts[0] for path in places(found, tmp_path, "latents") | places(found, tmp_path, "checkpoint")} == {"mira"}
    assert len(places(found, tmp_path, "latents")) == 3 and set(found.undecided) == {stray.resolve(), killed.resolve()}


def test_tables_that_lead_outside_reach_nothing_there(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out.png"
    digest = planted.save_png(outside, planted.picture(1))
    planted.table(inside / "samples.csv", "file,sha256,subject", [("../out.png", digest, "mira"), (outside, digest, "mira")])
    (inside / "link").symlink_to(tmp_path)
    found = reach.find(Target(frozenset(), "mira"), [inside])
    assert places(found, inside, "picture") == set() and [trace.kind for trace in found.traces] == ["table"]
    with pytest.raises(HarnessError, match="no such folder"):
        reach.find(Target(frozenset(), "mira"), [tmp_path / "nowhere"])


@pytest.mark.parametrize("data", [b"", b"\0" * 9, b"\xff" * 40, b"file,sha256\n\xff\xfe,x\n", b'{"notebook": 1', b"PK\3\4broken", (99).to_bytes(8, "little") + b"{"])
def test_broken_files_do_not_stop_the_list(tmp_path: Path, data: bytes) -> None:
    for name in ("a.csv", "a.safetensors", "a.npz", "manifest.json", "report.json"):
        (tmp_path / name).write_bytes(data)
    planted.photos(tmp_path, "mira", 1)
    assert len(reach.find(Target(frozenset(), "mira"), [tmp_path]).traces) == 4


def test_a_person_of_the_world_belongs_to_its_artist_and_not_to_a_namesake() -> None:
    assert files.owned({"artist": "artist-2", "person": "artist-2/4eeb"}, ["artist-2"])
    assert not files.owned({"artist": "artist-21", "person": "artist-21/4eeb"}, ["artist-2"])
    assert files.owned({"depicted": "noor; mira"}, ["mira"]) and not files.owned({"caption": "mira"}, ["mira"])


# --- the search, which is told nothing -------------------------------------------------------------------------------

PHOTO = planted.picture(5)
RAW = planted.png(PHOTO)
NEEDLES = Needles(frozenset({planted.hashlib.sha256(RAW).hexdigest()}), ("José Núñez",), (planted.describe(PHOTO),), (bytes(range(40, 88)),))
HASH = next(iter(NEEDLES.hashes))


def seen(folder: Path, needles: Needles = NEEDLES) -> set[str]:
    return {hit.how for hit in search([folder], needles, planted.describe, planted.alike).hits}


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return buffer.getvalue()


def noted(image: Image.Image, **text: str) -> bytes:
    info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    for key, value in text.items():
        info.add_text(key, value, zip=True)
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def gif(*images: Image.Image) -> bytes:
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:])
    return buffer.getvalue()


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def array(value: object) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, sha256=value)
    return buffer.getvalue()


CODE = base64.b64encode(RAW).decode()
WRAPPED = "\n".join(CODE[i:i + 76] for i in range(0, len(CODE), 76))
PLACES = {
    "the file under another name": ("x.bin", RAW, "hash"), "a smaller JPEG": ("x.jpg", jpeg(PHOTO.resize((40, 40))), "look"),
    "mirrored": ("x.png", planted.png(PHOTO.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), "look"),
    "a frame of a moving picture": ("x.gif", gif(planted.picture(6), planted.picture(7), PHOTO), "look"),
    "a contact sheet": ("x.png", planted.png(planted.sheet([planted.picture(6), PHOTO, planted.picture(7)])), "look"),
    "a data URI": ("x.html", f"<img src='data:image/png;base64,{CODE}'>".encode(), "hash"),
    "a notebook": ("x.ipynb", json.dumps({"image/png": WRAPPED}).encode(), "hash"),
    "an old notebook in lines": ("x.ipynb", json.dumps({"image/png": [line + "\n" for line in WRAPPED.splitlines()]}, indent=1).encode(), "hash"),
    "a thumbnail in a page": ("x.md", base64.b64encode(jpeg(PHOTO.resize((48, 48)))), "look"),
    "an archive in an archive": ("x.zip", archive(a=archive(b=RAW)), "hash"), "a packed file": ("x.gz", gzip.compress(RAW), "hash"),
    "a hash in a table": ("x.csv", f"sha256\n{HASH.upper()}\n".encode(), "hash"), "a hash in an array": ("x.npz", array(np.array([HASH])), "hash"),
    "a hash as bytes": ("x.db", b"\0\1" + bytes.fromhex(HASH) + b"\0", "hash"), "a hash in wide characters": ("x.txt", HASH.encode("utf-16"), "hash"),
    "a tensor's bytes": ("x.safetensors", b"\0\0" + NEEDLES.raw[0], "bytes"), "a descriptor in hexadecimal": ("x.json", planted.describe(PHOTO).hex().encode(), "bytes"),
    "a name in a table": ("x.csv", "José Núñez,1".encode(), "word"), "a name in JSON": ("x.json", json.dumps("josé núñez").encode(), "word"),
    "a name in a page": ("x.html", b"Jos&eacute; N&uacute;&ntilde;ez", "word"), "a name in an address": ("x.md", b"?who=Jos%C3%A9%20N%C3%BA%C3%B1ez", "word"),
    "a name with other accents": ("x.txt", "Jose\u0301 Nu\u0301n\u0303ez".encode(), "word"), "a name in PNG text": ("x.png", noted(planted.picture(8), prompt="José Núñez"), "word"),
    "a name in a tensor's header": ("x.safetensors", (38).to_bytes(8, "little") + '{"__metadata__":{"a":"José Núñez"}} '.encode() + bytes(64), "word"),
    "a file's name": ("josé núñez.txt", b"", "word"), "a name in an archive's list": ("x.zip", archive(**{"josé núñez.txt": b""}), "word"),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_search_finds(place: str, tmp_path: Path) -> None:
    name, data, how = PLACES[place]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / name).write_bytes(data)
    assert how in seen(tmp_path)


def test_the_search_looks_into_free_pages(tmp_path: Path) -> None:
    file = sqlite3.connect(tmp_path / "x.db")
    for statement in ("PRAGMA secure_delete = OFF", "CREATE TABLE a (b TEXT)", f"INSERT INTO a VALUES ('José Núñez {'x' * 2000}')", "DELETE FROM a"):
        file.execute(statement)
        file.commit()
    assert not file.execute("SELECT count(*) FROM a").fetchone()[0]
    file.close()
    assert seen(tmp_path) == {"word"}


def test_a_live_name_in_a_database_is_a_word_and_a_longer_name_is_not(tmp_path: Path) -> None:
    file = sqlite3.connect(tmp_path / "x.db")
    file.execute("CREATE TABLE a (b TEXT PRIMARY KEY, c TEXT)")
    file.execute("INSERT INTO a VALUES ('xJosé Núñezx', 'José Núñezen')")
    file.commit()
    assert seen(tmp_path) == set()
    file.execute("INSERT INTO a VALUES ('1', 'by José Núñez.')")
    file.commit()
    assert seen(tmp_path) == {"word"}
    file.close()


def test_the_search_does_not_cry_wolf(tmp_path: Path) -> None:
    root = np.random.default_rng(0)
    planted.plant(tmp_path)
    (tmp_path / "noise.bin").write_bytes(root.bytes(2_000_000))
    (tmp_path / "x.txt").write_text("Joséphine Núñezes, jose nunez")
    (tmp_path / "x.html").write_bytes(base64.b64encode(planted.png(planted.picture(77))))
    answer = search([tmp_path], NEEDLES, planted.describe, planted.alike)
    assert answer.clean and answer.pictures >= 20 and answer.sentence().startswith("nothing was found in")


def test_the_search_says_what_it_could_not_look_into(tmp_path: Path) -> None:
    locked = bytearray(archive(secret=RAW))
    locked[6] |= 1
    at = locked.find(b"PK\1\2")
    locked[at + 8] |= 1
    (tmp_path / "x.zip").write_bytes(locked)
    answer = search([tmp_path], NEEDLES, planted.describe, planted.alike)
    assert not answer.hits and not answer.clean and "encrypted" in answer.unread[0] and "could not be looked into" in answer.sentence()
    with pytest.raises(HarnessError, match="too short"):
        Needles(words=("jo",))


def test_large_files_are_read_in_pieces_that_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.consent import search as module

    monkeypatch.setattr(module, "LARGEST", 3 * 2**20)
    for at in (3 * 2**20 - 20, 5 * 2**20, 2**20):
        (tmp_path / "x.bin").write_bytes(b"\1" * at + HASH.encode() + b"\1" * 2**20)
        assert seen(tmp_path) == {"hash"}


def test_cells_of_a_sheet_are_found_without_knowing_its_geometry() -> None:
    sheet = Image.new("RGB", (330, 150), "#202020")
    parts = [planted.picture(seed, 90) for seed in (1, 2, 3)]
    for i, part in enumerate(parts):
        sheet.paste(part, (13 + 105 * i, 31))
    cells = [np.asarray(cell) for _, cell in look.cells(sheet)]
    assert all(any(cell.shape == np.asarray(part).shape and (cell == np.asarray(part)).all() for cell in cells) for part in parts)
