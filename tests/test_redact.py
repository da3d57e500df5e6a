"""Redacted forms: no picture, no prompt where asked, the numbers whole, the same root; and what is withheld cannot be guessed."""

from __future__ import annotations

import csv
import html
import json
import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest

import sealed
from harness.cli import main
from harness.consent import keys
from harness.errors import HarnessError
from harness.report import redact, seal
from harness.report.verify import check


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> keys.Key:
    return keys.create(tmp_path_factory.mktemp("keys") / "key.pem")


@pytest.fixture
def folder(tmp_path: Path, key: keys.Key) -> Path:
    return sealed.make(tmp_path / "run", key)


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_pictures_stay_behind_and_the_root_is_the_same(folder: Path, key: keys.Key, tmp_path: Path) -> None:
    to = redact.redact(folder, tmp_path / "redacted")
    assert names(to) == {"report.json", "report.redacted.html", "findings.csv", "rows.csv", "samples.csv", "works.csv", "seal.json"}
    answer = check(to, key.fingerprint)
    assert answer.pinned and "tuned/00003.png" in answer.withheld and seal.read(to).root == seal.read(folder).root
    page = (to / "report.redacted.html").read_text(encoding="utf-8")
    assert "data:image" not in page and "<img" not in page and "A picture is withheld here: A dot for each model" in page
    assert "rose by 0.062" in page and json.loads((to / "report.json").read_bytes())["findings"][0]["estimate"] == 0.062
    assert sealed.PROMPTS[0] in (to / "samples.csv").read_text()


def test_prompts_stay_behind_where_asked_and_still_group_the_rows(folder: Path, key: keys.Key, tmp_path: Path) -> None:
    to = redact.redact(folder, tmp_path / "redacted", prompts=False)
    assert check(to, key.fingerprint).pinned
    everything = b"".join((to / name).read_bytes() for name in names(to)).decode()
    assert not [p for p in sealed.PROMPTS if p in everything] and "A Person" not in everything
    rows = list(csv.DictReader((to / "samples.redacted.csv").open()))
    assert [r["prompt"] for r in rows] == ["text 2", "text 2", "text 1", "text 1", "text 3", "text 3"]  # rows.csv comes first by name
    assert [r["prompt"] for r in csv.DictReader((to / "rows.redacted.csv").open())] == ["text 1"]
    assert [r["seed"] for r in rows] == ["0", "1"] * 3 and all(len(r["sha256"]) == 64 for r in rows)


def test_what_is_withheld_cannot_be_guessed(folder: Path, tmp_path: Path) -> None:
    to = redact.redact(folder, tmp_path / "redacted", prompts=False)
    table = next(e for e in seal.read(folder).entries if e.path == "samples.csv")
    held = (to / "seal.json").read_text()
    assert table.leaf in held and table.sha256 not in held and table.salt not in held
    assert seal.leaf(table.sha256, "", table.path) != table.leaf  # who guesses all prompts still lacks the salt
    shown = {e.salt for e in seal.read(to).entries if e.salt}
    assert not [s for s in shown if seal.leaf(table.sha256, s, table.path) == table.leaf]


@pytest.mark.parametrize("prompts", [True, False])
def test_a_redacted_form_is_as_hard_to_change(folder: Path, prompts: bool, tmp_path: Path) -> None:
    to = redact.redact(folder, tmp_path / "redacted", prompts)
    for name in sorted(names(to)):
        data = (to / name).read_bytes()
        for place in (0, len(data) // 2, len(data) - 2):
            (to / name).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1:])
            assert check(to).differs.startswith(name), (name, place)
        (to / name).write_bytes(data)
    (to / "tuned").mkdir()
    (to / "tuned/00003.png").write_bytes(sealed.picture(55))  # a picture slipped in where one was withheld
    assert check(to).differs == "tuned/00003.png: was not there when the report was sealed"


def test_who_hides_a_file_as_withheld_is_shown_up(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    seal.withhold(folder, ["findings.csv"], shut=False)
    assert main(["verify", str(folder)]) == 0
    assert "1 of them withheld" in (said := capsys.readouterr().out) and "withheld: findings.csv" in said
    assert main(["verify", str(folder), "--complete"]) == 1


def test_it_refuses_what_it_could_not_keep(folder: Path, key: keys.Key, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="new folder of its own"):
        redact.redact(folder, folder / "inside")
    with pytest.raises(HarnessError, match="new folder of its own"):
        redact.redact(folder, tmp_path)
    seal.write(folder)
    with pytest.raises(HarnessError, match="no salts"):
        redact.redact(folder, tmp_path / "a", prompts=False)
    (folder / "works.csv").write_text(f"sha256,subject,role,note\n{'ef' * 32},artist-31,training,{sealed.PROMPTS[2].split(';')[0]}\n")
    (folder / "rows.csv").write_text("question,prompt\nstyle,an orchard\n")
    redact.write_twins(folder)
    seal.write(folder, key)
    with pytest.raises(HarnessError, match="works.csv: holds the prompt 'an orchard'"):
        redact.redact(folder, tmp_path / "b", prompts=False)
    (folder / "report.json").write_bytes(b"{}")
    with pytest.raises(HarnessError, match="not as it was sealed"):
        redact.redact(folder, tmp_path / "c")
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists() and not (tmp_path / "c").exists()


@pytest.mark.parametrize("write", [
    html.escape, lambda text: json.dumps(text)[1:-1], str.upper, lambda text: text.replace(" ", "\n  "), lambda text: text.replace("late", "<b>late</b>"),
    lambda text: "".join(f"&#{ord(letter)};" for letter in text), lambda text: "".join(f"\\u{ord(letter):04x}" for letter in text), quote,
    lambda text: html.escape(json.dumps(json.dumps(text))), lambda text: unicodedata.normalize("NFD", text)], ids=range(10))
def test_a_prompt_is_found_however_it_is_written(write: object, folder: Path, key: keys.Key, tmp_path: Path) -> None:
    prompt = 'a "late" caf\u00e9 & a dog'
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["question", "prompt"], ["style", prompt]])
    (folder / "findings.csv").write_text(f"question\n{write(prompt)}\n", encoding="utf-8")
    redact.write_twins(folder)
    seal.write(folder, key)
    with pytest.raises(HarnessError, match="findings.csv: holds the prompt"):
        redact.redact(folder, tmp_path / "redacted", prompts=False)
    (folder / "findings.csv").write_text("question\na late dog\n", encoding="utf-8")
    seal.write(folder, key)
    assert check(redact.redact(folder, tmp_path / "redacted", prompts=False)).signer


def test_a_picture_named_by_its_prompt_leaves_no_name(folder: Path, key: keys.Key, tmp_path: Path) -> None:
    named = folder / "tuned" / "A_lighthouse-keeper in the Rain.png"
    (folder / "tuned/00003.png").rename(named)
    seal.write(folder, key)
    to = redact.redact(folder, tmp_path / "redacted", prompts=False)
    held = (to / "seal.json").read_text()
    assert "lighthouse" not in held.casefold() and "tuned/00004.png" in held and check(to, key.fingerprint).pinned
    (folder / "a lighthouse keeper in the rain").mkdir()
    (folder / "works.csv").rename(folder / "a lighthouse keeper in the rain" / "works.csv")
    seal.write(folder, key)
    with pytest.raises(HarnessError, match="holds the prompt"):
        redact.redact(folder, tmp_path / "other", prompts=False)


def test_tables_that_cannot_be_read_have_no_twin_and_stay_behind(folder: Path, key: keys.Key, tmp_path: Path) -> None:
    (folder / "rows.redacted.csv").unlink()
    (folder / "rows.csv").write_bytes(b"question,prompt\nstyle,caf\xe9\n")
    redact.write_twins(folder)
    seal.write(folder, key)
    to = redact.redact(folder, tmp_path / "redacted", prompts=False)
    assert not [name for name in names(to) if name.startswith("rows")] and check(to).signer


def test_the_command_says_how_to_check_it(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from argparse import ArgumentParser

    parser = ArgumentParser()
    redact.add_arguments(parser)
    assert redact.main(parser.parse_args([str(folder / "report.html"), str(tmp_path / "out"), "--no-prompts"])) == 0
    assert f"harness verify {tmp_path / 'out'}" in capsys.readouterr().out and not (tmp_path / "out/samples.csv").exists()
