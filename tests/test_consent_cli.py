"""`harness consent` as it is typed: defaults that fit, advice that helps, numbers to go on with, and no ledger begun by mistake."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import PngImagePlugin

import planted
from harness import cli
from harness.consent import forget, keys
from harness.consent.forget import Eyes
from harness.images import save_png, sha256

USE = "cawg.ai_generative_training"
SAID = ("--use", USE, "--decision", "allowed", "--basis", "a letter")
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_KEY", str(keys.create(tmp_path / "home" / "key.pem").path))
    monkeypatch.setenv("HARNESS_KEPT", str(tmp_path / "home" / "kept.json"))
    monkeypatch.setattr(forget, "eyes", lambda: Eyes(planted.describe, planted.alike))

    def typed(*words: str) -> tuple[int, str]:
        code = cli.main(["consent", *map(str, words)])
        seen = capsys.readouterr()
        return code, seen.out + seen.err
    return typed


def folder(name: str, artist: str = "mira") -> str:
    digest = save_png(Path(name) / "1.png", planted.picture(1))
    planted.table(Path(name) / "samples.csv", "file,sha256,artist", [("1.png", digest, artist)])
    return digest


def test_a_record_is_of_today_and_a_missing_file_is_called_missing(run: Run) -> None:
    code, text = run("record", "--subject", "mira", *SAID)
    assert code == 0 and text == "consent.db: entry 2, mira, all works: " + USE + " allowed\n"
    assert f"entry 2: mira, all works: {USE} allowed from {datetime.now(UTC):%Y-%m-%d}; a letter" in run("show")[1]
    for option in ("--sha256", "--evidence"):
        code, text = run("record", "--subject", "mira", *SAID, option, "letter.pdf")
        assert code == 2 and f"{option} letter.pdf: there is no such file" in text
    Path("letter.pdf").write_bytes(b"yes")
    assert run("record", "--subject", "noor", *SAID, "--evidence", "letter.pdf")[0] == 0


def test_an_entry_is_replaced_by_the_number_that_show_gives(run: Run) -> None:
    run("record", "--subject", "mira", *SAID)
    run("record", "--subject", "mira", "--use", USE, "--decision", "notAllowed", "--basis", "a mail", "--replaces", "2")
    text = run("show", "mira")[1]
    assert "entry 3: mira" in text and "entry 2" not in text and text.startswith("consent.db: 1 record\n")


def test_a_withdrawal_is_one_line_and_needs_no_folder(run: Run) -> None:
    run("record", "--subject", "mira", *SAID)
    code, text = run("withdraw", "mira")
    assert code == 0 and "holds from now on" in text.splitlines()[0] and "no folder was looked into" in text
    lines = run("show", "mira")[1].splitlines()
    assert len(lines) == 3 and "entry 3: mira, all works: every use notAllowed" in lines[2]
    run("record", "--subject", "noor", *SAID)
    assert run("withdraw", "noor", "--in", "nowhere")[0] == 0 and "withdrawn" in run("show", "noor")[1]


def test_the_withdrawal_is_said_before_the_list_and_by_whom_and_from_what_can_be_named(run: Run) -> None:
    digest = folder("data")
    code, text = run("withdraw", digest)
    assert code == 2 and ("there is no ledger" in text or "--subject" in text)
    run("record", "--subject", "noor", *SAID)
    code, text = run("withdraw", digest)
    assert code == 2 and "say who withdraws it: --subject NAME" in text
    code, text = run("withdraw", digest, "--subject", "mira")
    assert code == 0 and text.index("holds from now on") < text.index("data/1.png") and "1.png (picture" in text
    code, text = run("withdraw", "noor", "--use", USE, "--apply")
    assert code == 0 and "other uses may be allowed still" in text and Path("data/1.png").exists()


@pytest.mark.parametrize("words", [("forget", "mira", "--in", "data"), ("import", "none.csv"), ("import", "wrong.csv"), ("withdraw", "mira", "--in", "data")])
def test_a_command_in_the_wrong_folder_begins_no_ledger(run: Run, words: tuple[str, ...]) -> None:
    folder("data")
    Path("wrong.csv").write_text("name,work,ok\nmira,*,yes\n")
    assert run(*words)[0] == 2 and not Path("consent.db").exists()


def test_show_takes_a_name_alone_and_says_when_nothing_is_recorded(run: Run) -> None:
    assert run("show", "mira")[0] == 2
    run("record", "--subject", "mira", *SAID)
    assert run("show", "Mira")[0] == 0
    code, text = run("show", "nobody")
    assert code == 1 and "nothing is recorded of nobody; the subjects are mira" in text


def test_an_empty_folder_is_not_verified(run: Run) -> None:
    Path("empty").mkdir()
    code, text = run("verify", "empty")
    assert code == 2 and "no tombstone" in text


def test_ask_hears_what_the_files_say_and_names_those_that_nobody_was_asked_about(run: Run) -> None:
    run("record", "--subject", "mira", *SAID)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
                  'xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED"/></rdf:RDF></x:xmpmeta>')
    folder("data")
    assert run("ask", "data", "--use", USE) == (0, run("ask", "data", "--use", USE)[1]) and "1 of 1 picture is allowed" in run("ask", "data", "--use", USE)[1]
    save_png(Path("data/stray.png"), planted.picture(9))
    code, text = run("ask", "data", "--use", USE)
    assert code == 1 and "1 picture of the folder is not in its table, so nobody was asked about: stray.png" in text
    planted.picture(1).save("data/1.png", pnginfo=info)
    planted.table(Path("data/samples.csv"), "file,sha256,artist", [("1.png", sha256(Path("data/1.png")), "mira"), ("stray.png", sha256(Path("data/stray.png")), "zoe")])
    code, text = run("ask", "data", "--use", USE, "--purpose", "audit")
    assert "1 picture of the folder is without any record: stray.png" in text and "0 of 2 pictures are allowed" in text and "the file" in text
    assert run("ask", "data", "--use", USE)[0] == 2


def test_forget_that_could_not_look_everywhere_does_not_say_forgotten(run: Run) -> None:
    folder("data")
    run("record", "--subject", "mira", *SAID)
    Path("data/old.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(60))
    code, text = run("forget", "mira")
    assert code == 1 and "forgotten;" not in text and "not looked into:" in text and "old.7z (packed by 7-Zip)" in text and not Path("data/1.png").exists()
    assert run("search", "--word", "mira")[0] == 1
    Path("data/old.7z").unlink()
    assert run("search", "--word", "mira")[0] == 0
    code, text = run("search", "--photo", "none.png")
    assert code == 2 and "there is no such file" in text


def test_forget_says_what_stays_with_others(run: Run) -> None:
    digest = folder("data", "painter")
    run("record", "--subject", "painter", "--sha256", digest, *SAID, "--depicted", "noor")
    run("record", "--subject", "noor", *SAID, "--adult", "attested")
    code, text = run("forget", "noor")
    assert code == 1 and "stays: 1 x a picture of painter that shows them" in text and Path("data/1.png").exists()


def test_what_cannot_be_finished_is_given_up_by_name_or_number(run: Run) -> None:
    folder("data")
    run("record", "--subject", "mira", *SAID)
    Path("data/x.bin").write_bytes(b"\0\1 mira \0")
    assert run("forget", "mira")[0] == 2
    code, text = run("sweep")
    assert "not finished (number 1, mira)" in text and "--abandon 1" in text
    code, text = run("sweep", "--abandon", "MIRA")
    assert code == 0 and "given up: forget of mira" in text and "not finished" not in run("sweep")[1]
    assert run("sweep", "--abandon", "mira")[0] == 2
