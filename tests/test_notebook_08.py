"""The dossier: made of runs as they ended, the same bytes each time, and every way to cheat that is tried on it is noticed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness import report
from harness.consent import keys, reach
from harness.errors import HarnessError, Refused
from harness.finetune import adapter as adapters
from harness.report import seal, verify
from harness.runs import Run, launch, manifest
from harness.trials import dossier, sources, tampering

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "08_report.ipynb"


@dataclasses.dataclass(frozen=True)
class Made:
    """What the notebook left, run by the command, killed once and begun again."""

    first: Path
    """the run of notebook 00 that it made"""
    folder: Path
    """its own folder"""
    said: tuple[str, str]
    """what it printed before it was killed, and after"""

    @property
    def facts(self) -> dict[str, Any]:
        """Its manifest."""
        return manifest.read(self.folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    results = tmp_path_factory.mktemp("dossier")
    before = _killed(results)
    (first,) = results.glob("00_start_here-*")
    _newer(first)
    done = subprocess.run(_command(), cwd=ROOT, capture_output=True, text=True, timeout=300, env=_environment(results))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (folder,) = results.glob("08_report-*")
    return Made(first, folder, (before, done.stdout))


def _command() -> list[str]:
    return [sys.executable, "-m", "harness", "run", str(NOTEBOOK), "--preset", "smoke"]


def _environment(results: Path) -> dict[str, str]:
    return {**os.environ, "HARNESS_RESULTS": str(results)}


def _killed(results: Path) -> str:
    """Start it where there is no run at all, and kill it when it has begun to write; what it had printed."""
    log = results / "log.txt"
    with log.open("w") as out:
        started = subprocess.Popen(_command(), cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=_environment(results))
        until = time.monotonic() + 300
        while not list(results.glob("08_report-*/crates/*.zip")) and started.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        started.send_signal(signal.SIGKILL)
        assert started.wait() == -signal.SIGKILL, log.read_text()[-3000:]
    return log.read_text()


def _newer(first: Path) -> Path:
    """The same run once more, begun later: what would be taken by a run that starts now."""
    copy = Path(shutil.copytree(first, first.with_name(f"{first.name}-2")))
    facts = manifest.read(copy)
    manifest.write(copy, facts | {"timings": facts["timings"] | {"started": "2999-01-01T00:00:00+00:00"}})
    return copy


def test_without_a_run_one_is_made_after_a_forecast_and_a_killed_dossier_goes_on_with_it(made: Made) -> None:
    before, after = made.said
    assert re.search(r"no finished run of 00_start_here in \S+; running its preset smoke: .*of memory", before)
    assert manifest.status(made.first) == manifest.status(made.folder) == "complete" and "goes on where it was killed" in after
    assert made.facts["timings"]["attempts"] == 2 and "no finished run" not in after
    assert list(pd.read_csv(made.folder / "sources.csv")["run"]) == [made.first.name]
    assert sources.newest(made.first.parent).name == f"{made.first.name}-2"


def test_the_same_inputs_give_the_same_bytes(made: Made, tmp_path: Path) -> None:
    run, key = Run(tmp_path), keys.default()
    taken = sources.gather([str(made.first)], run.folder)
    for source, pictures in zip(taken, dossier.pack(taken, run), strict=True):
        dossier.describe(source, pictures)
        dossier.archive(source, run.folder / "crates")
    report.write(dossier.findings(taken), dossier.story(taken), dossier.figures(taken), run.folder, key)
    assert {name: manifest.provenance.sha256(tmp_path / name) for name in manifest.output_files(tmp_path, [tmp_path])} == made.facts["outputs"]


def test_the_dossier_says_what_the_run_found_and_who_agreed(made: Made) -> None:
    told, page = json.loads((made.folder / "report.json").read_text()), (made.folder / "report.html").read_text()
    assert (made.folder / "findings.csv").read_bytes() == (made.first / "findings.csv").read_bytes()
    source = json.loads((made.first / "report.json").read_text())
    assert [row["sha256"] for row in told["figures"]] == [row["sha256"] for row in source["figures"]] and told["credits"] == source["credits"]
    assert told["purpose"] == made.facts["notes"]["purpose"] == "audit" and told["consent"]["blocked"] == 8 and not told["consent"]["exportable"]
    assert [(row["use"], row["works"]) for row in told["data"]] == [("trained on", 8), ("held out", 10)] and told["data"][0]["licence"]
    assert {"the run: time", "the run: energy", "the run: money"} <= set(told["cost"]) and len(told["models"]) == 2
    assert all(words in page for words in ("What was taken?", "How much of it?", "What is recognisable?", "not legal advice", "Made for an audit"))


def test_every_way_to_cheat_is_noticed_and_a_forger_is_told_apart_by_the_pin(made: Made) -> None:
    checks = {(row["done"].split(",")[0], row["pinned"]): row["answer"] for row in made.facts["notes"]["checks"]}
    assert checks["nothing", False].startswith("unchanged, signer unknown") and checks["nothing", True].startswith("unchanged, signed by the key")
    picture = tampering.picture(made.folder)
    assert [checks[what, True] for what in ("a picture", "a table", "the page")] == [f"changed: {name}: is not what was sealed." for name in (picture, "findings.csv", "report.html")]
    assert checks["all verdicts", False].startswith("unchanged, signer unknown: the forger")
    assert checks["all verdicts", True] == "changed: seal.json: signed by the forger and not by the signer."
    forms = [answer for (done, _), answer in checks.items() if "redacted" in done]
    assert len(forms) == 2 and all(each.startswith("unchanged, signed by the key") and each.endswith("the same root.") for each in forms)
    assert verify.check(made.folder, keys.default().fingerprint).sentence.startswith("unchanged, signed by the key that you gave")
    assert "ed25519:" not in json.dumps(made.facts["notes"]["checks"])


def test_what_is_altered_still_looks_right(made: Made, tmp_path: Path) -> None:
    """The changed table and page name another artist, and the changed picture shows the same."""
    copy = Path(shutil.copytree(made.folder, tmp_path / "copy"))
    for name in ("findings.csv", "report.html", tampering.picture(copy)):
        tampering.alter(copy / name)
    assert set(pd.read_csv(copy / "findings.csv")["subject"][:1]) == {"artist-31"} and "<h1>Dossier: The case of artist-31</h1>" in (copy / "report.html").read_text()
    name = tampering.picture(made.folder)
    assert tampering.decode(copy / name).tobytes() == tampering.decode(made.folder / name).tobytes() and (copy / name).read_bytes() != (made.folder / name).read_bytes()


def test_weights_of_an_audit_and_the_key_are_nowhere_in_what_is_handed_over(made: Made) -> None:
    assert "not published:" in made.said[1] and "must not be exported" in made.said[1] and not (made.folder / "adapters").exists()
    with zipfile.ZipFile(made.folder / "crates" / f"{made.first.name}.zip") as crate:
        inside = {name: crate.read(name) for name in crate.namelist()}
    assert "ro-crate-metadata.json" in inside and "run/report.html" in inside
    files = inside | {str(path): path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    secret = keys.location().read_bytes().splitlines()[1]
    assert not [name for name, data in files.items() if name.endswith(".safetensors") or b"PRIVATE KEY" in data or secret in data]
    assert "sha256" not in json.dumps(made.facts["inputs"])


def test_machines_can_read_it_and_a_withdrawal_finds_it(made: Made) -> None:
    from harness.consent import cards

    pytest.importorskip("mlcroissant", reason="mlcroissant is not installed; the Croissant file was not checked")
    cards.check(made.folder / made.first.name / "pictures.croissant.json")
    card = cards.read(made.folder / made.first.name / "pictures.md")
    with pytest.raises(Refused, match="is refused"):
        cards.require(card, "cawg.ai_generative_training")
    found = reach.find(reach.Target(frozenset(), "artist-21"), [made.folder])
    assert {"run", "report", "table", "seal", "notebook"} <= set(found.counts())


@pytest.mark.parametrize("name", ["tuned/00000.png", "findings.csv", "report.html"])
def test_a_run_that_was_changed_is_named_and_left_out_or_refused(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture, name: str) -> None:
    copy = Path(shutil.copytree(made.first, tmp_path / made.first.name))
    tampering.alter(copy / name)
    assert sources.newest(tmp_path) is None and re.search(rf"left out: .*{name}", capsys.readouterr().out)
    with pytest.raises(HarnessError, match=f"not taken: {name} is changed"):
        sources.gather([str(copy)], tmp_path / "run")


def test_a_run_that_was_changed_together_with_its_manifest_is_refused_by_its_seal(made: Made, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made.first, tmp_path / made.first.name))
    tampering.alter(copy / "tuned" / "00000.png")
    facts = manifest.read(copy)
    manifest.write(copy, facts | {"outputs": {name: manifest.provenance.sha256(copy / name) for name in facts["outputs"]}})
    with pytest.raises(HarnessError, match="tuned/00000.png"):
        sources.accept(copy)


def test_a_run_that_is_not_complete_or_named_twice_or_changed_meanwhile_is_refused(made: Made, tmp_path: Path) -> None:
    copy, run = Path(shutil.copytree(made.first, tmp_path / made.first.name)), tmp_path / "08"
    with pytest.raises(HarnessError, match="names .* twice"):
        sources.gather([str(copy), str(made.first)], run)
    sources.gather([], run)
    facts = manifest.read(copy)
    manifest.write(copy, facts | {"notes": facts["notes"] | {"more": 1}})
    with pytest.raises(HarnessError, match="changed since 08 was begun"):
        sources.gather([], run)
    manifest.write(copy, facts | {"status": "running"})
    with pytest.raises(HarnessError, match="this run is running"):
        sources.gather([str(copy)], run)
    with pytest.raises(HarnessError, match="not the folder of a run"):
        sources.gather([str(tmp_path / "nothing")], run)


def test_two_runs_make_one_dossier_that_tells_them_apart(made: Made, tmp_path: Path) -> None:
    run = Run(tmp_path)
    taken = sources.gather([str(made.first), f"{made.first}-2"], tmp_path)
    dossier.pack(taken, run)
    story, findings = dossier.story(taken), dossier.findings(taken)
    assert story["consent"]["blocked"] == 16 and {"run 1: steps", "run 2: steps"} <= set(story["settings"]) and len(story["models"]) == 2
    assert [finding.subject for finding in findings if finding.question == "style"] == ["artist-21 (run 1)", "artist-21 (run 2)"]
    page = report.write(findings, story, dossier.figures(taken), tmp_path, keys.default())
    assert "Run 2: 00_start_here" in page.read_text() and verify.check(tmp_path).sentence.startswith("unchanged")
    assert {each.path.split("/")[0] for each in seal.read(tmp_path).entries} >= {made.first.name, f"{made.first.name}-2"}


def test_an_adapter_that_everybody_agreed_to_is_published_with_its_card(made: Made, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made.first, tmp_path / "run"))
    said = adapters.read_manifest(copy / "adapter" / adapters.WEIGHTS)
    said["consent"] |= {"allowed": True, "exportable": True, "purpose": "training", "blocked": 0, "reasons": []}
    (copy / "adapter" / adapters.WEIGHTS).write_bytes(adapters.tensor_file({}, {adapters.MANIFEST_KEY: json.dumps(said)}))
    agreed = dataclasses.replace(sources.accept(made.first), folder=copy)
    with pytest.raises(HarnessError, match="licence is empty"):
        dossier.publish(agreed, tmp_path / "out", "")
    assert not (tmp_path / "out").exists()
    card = dossier.publish(agreed, tmp_path / "out", "cc-by-4.0")
    assert "allowed: true" in card.read_text() and (tmp_path / "out" / adapters.WEIGHTS).is_file()


def test_the_signing_key_is_asked_for_by_fingerprint_alone_and_lies_in_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = keys.create(tmp_path / "run" / "key.pem")
    monkeypatch.setenv("HARNESS_KEY", str(key.path))
    assert dossier.signer(key.fingerprint, tmp_path / "other").fingerprint == key.fingerprint
    with pytest.raises(HarnessError, match="asks for ed25519:0000"):
        dossier.signer("ed25519:" + "0" * 64, tmp_path / "other")
    with pytest.raises(Refused, match="lies in the folder of a run"):
        dossier.signer("", tmp_path / "run")
    with pytest.raises(Refused, match="the private key stays in its file"):
        launch.plan(NOTEBOOK, "smoke", {"key": str(key.path)}, results=tmp_path)


def test_credentials_show_a_change_and_are_lost_when_the_picture_is_saved_anew(made: Made) -> None:
    pytest.importorskip("c2pa", reason="c2pa-python is not installed; content credentials were not tried")
    signed, changed, *anew = tampering.credential(made.folder / tampering.picture(made.folder))
    assert signed.startswith("signed: intact") and "do not fit the picture" in changed and [each.split(": ")[1] for each in anew] == ["none", "none"]


def test_the_survival_table_is_read_where_it_was_measured(tmp_path: Path) -> None:
    assert tampering.survival(tmp_path) is None
    (tmp_path / "results" / "published").mkdir(parents=True)
    (tmp_path / "results" / "published" / "survival.csv").write_text("mark,way,survived,n,low,high\nC2PA,copied,40,40,0.9,1\nC2PA,JPEG 75,0,40,0,0.1\nsidecar,copied,40,40,0.9,1\nsidecar,JPEG 75,0,40,0,0.1\n")
    found = tampering.survival(tmp_path)
    assert found.loc["C2PA", "JPEG 75"] == "0/40" and list(found.columns) == ["copied", "JPEG 75"]
