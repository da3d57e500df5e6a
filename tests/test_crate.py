"""A run as an RO-Crate: a validator that knows nothing of us accepts it, and nothing goes along that must stay at home."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import made_run
import numpy as np
import pytest

from harness import cli
from harness.errors import HarnessError, Refused
from harness.images import atomic_write, sha256
from harness.runs import crate, manifest

services = pytest.importorskip("rocrate_validator.services", reason="roc-validator is not installed")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The validator gets the vocabulary that the package `rocrate` ships (that of RO-Crate 1.3, whose terms hold those of 1.1) and nothing else."""
    import requests
    import rocrate
    from rocrate_validator.utils.http import HttpRequester

    def get(self: HttpRequester, url: str, **kwargs: object) -> requests.Response:
        response = requests.Response()
        response.status_code, response.url = (200, url) if url == "https://w3id.org/ro/crate/1.1/context" else (504, url)
        response._content = (Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld").read_bytes() if response.ok else b""
        response.headers["Content-Type"] = "application/ld+json"
        return response

    monkeypatch.setattr(HttpRequester, "get", get, raising=False)
    monkeypatch.setattr(HttpRequester, "head", get, raising=False)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished audit run with an adapter, its cached latents, a ledger and an input."""
    table = made_run.values("style", "artist-21", made_run.asked(2, 2), lambda i: i / 10)
    folder = made_run.make(tmp_path / "runs", 1, [table], [made_run.finding("style", "artist-21", table)])
    for name in ("adapter/pytorch_lora_weights.safetensors", "adapter/latents/1.safetensors", "embeddings/1.npz", "ledger.sqlite"):
        atomic_write(folder / name, name)
    finish(folder, inputs=[{"parameter": "works", "path": "mine", "name": "mine", "sha256": "9" * 64, "card": None, "licence": None}])
    return folder


def finish(folder: Path, **changes: object) -> None:
    found = manifest.read(folder)
    manifest.write(folder, found | {"outputs": {n: sha256(folder / n) for n in manifest.output_files(folder, [folder])}} | changes)


def graph(folder: Path) -> dict[str, dict]:
    return {entity["@id"]: entity for entity in json.loads((folder / "ro-crate-metadata.json").read_text())["@graph"]}


def issues(folder: Path, severity: str = "REQUIRED") -> list[str]:
    settings = {"rocrate_uri": str(folder), "profile_identifier": "process-run-crate", "requirement_severity": severity, "offline": True,
                "cache_path": folder.parent / "validator-cache", "skip_availability_check": True}
    return [issue.message for issue in services.validate(settings).get_issues()]


def test_a_validator_accepts_the_crate(run: Path, tmp_path: Path) -> None:
    out = crate.write(run, tmp_path / "out", licence="CC-BY-4.0", author="A. Person <https://orcid.org/0000-0002-1825-0097>")
    assert issues(out) == []
    assert not [issue for issue in issues(out, "RECOMMENDED") if "Action" in issue]
    held = graph(out)
    root, action = held["./"], held[f"#run-{manifest.read(run)['id']}"]
    assert root["conformsTo"]["@id"] == crate.PROFILE["@id"] and root["mentions"] == {"@id": action["@id"]}
    assert action["actionStatus"].endswith("CompletedActionStatus") and action["startTime"] < action["endTime"]
    assert {"@id": "#parameter-steps"} in action["object"] and {"@id": "nih:sha-256;" + "9" * 64} in action["object"]
    assert {"@id": "run/findings.csv"} in action["result"] and held["run/findings.csv"]["sha256"] == sha256(run / "findings.csv")
    broken = json.loads((out / "ro-crate-metadata.json").read_text())
    for entity in broken["@graph"]:
        entity.pop("instrument", None)
    (out / "ro-crate-metadata.json").write_text(json.dumps(broken))
    assert any("instrument" in issue for issue in issues(out)), "the validator must be able to find a fault"


def test_a_failed_run_says_so_and_is_accepted(run: Path, tmp_path: Path) -> None:
    finish(run, status=manifest.FAILED, error={"cell": 3, "source": "x", "reason": "ValueError: planted"})
    out = crate.write(run, tmp_path / "out")
    action = graph(out)[f"#run-{manifest.read(run)['id']}"]
    assert action["error"] == "ValueError: planted" and action["actionStatus"].endswith("FailedActionStatus")
    assert issues(out) == []


def test_what_must_stay_at_home_does(run: Path, tmp_path: Path) -> None:
    kept, away = crate.divide(run)
    assert set(away) == {"works/00000.png", "adapter/pytorch_lora_weights.safetensors", "adapter/latents/1.safetensors", "embeddings/1.npz", "ledger.sqlite"}
    out = crate.write(run, tmp_path / "out")
    inside = {path.relative_to(out / "run").as_posix() for path in (out / "run").rglob("*") if path.is_file()}
    assert inside == set(kept) and {"manifest.json", "works.csv", "tuned/00000.png", "report.html"} <= inside
    assert sha256(run / "works/00000.png") not in {sha256(path) for path in out.rglob("*") if path.is_file()}
    assert "audit only" in graph(out)["./"]["description"]


def test_a_training_with_consent_takes_its_adapter_along(run: Path) -> None:
    finish(run, notes={"purpose": "training", "consent": {"exportable": True}})
    assert "adapter/pytorch_lora_weights.safetensors" in crate.divide(run)[0]
    finish(run, notes={"purpose": "training", "consent": {"exportable": False}})
    assert "adapter/pytorch_lora_weights.safetensors" in crate.divide(run)[1]


def test_the_seal_of_the_report_still_holds_inside(run: Path, tmp_path: Path) -> None:
    from harness.report import seal, verify

    seal.write(run)
    finish(run)
    assert verify.check(run).differs == ""
    out = crate.write(run, tmp_path / "out")
    found = verify.check(out / "run")
    assert found.differs == "" and "works/00000.png" in found.withheld and issues(out) == []
    (out / "run" / "findings.csv").write_text("other")
    assert "findings.csv" in verify.check(out / "run").differs


def test_the_same_run_gives_the_same_archive(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["crate", str(run)]) == 0
    first = run.with_name(f"{run.name}.crate.zip")
    told = capsys.readouterr().out
    assert str(first) in told and "left out: 1 file: weights of a training" in told
    assert zipfile.ZipFile(first).testzip() is None and "ro-crate-metadata.json" in zipfile.ZipFile(first).namelist()
    again = crate.write(run, tmp_path / "again.zip")
    assert sha256(first) == sha256(again)


def test_a_planted_secret_keeps_the_crate_from_being_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hf_" + "Zz9" * 10
    for name in ("notes.txt", "manifest.json", "notebook.ipynb", "samples.csv"):
        copy = tmp_path / name.replace(".", "-") / run.name
        shutil.copytree(run, copy)
        if name == "manifest.json":  # past `manifest.write`, which would mask it
            (copy / name).write_text((copy / name).read_text().replace("the first run", secret))
        else:
            with (copy / name).open("a") as stream:
                stream.write(f"\n{secret}\n")
            finish(copy)
        with pytest.raises(Refused, match=name):
            crate.write(copy, tmp_path / "out.zip")
    monkeypatch.setenv("CLOUD_SECRET_KEY", "planted-without-any-form")
    (run / "log.txt").write_text("key=planted-without-any-form")
    finish(run)
    with pytest.raises(Refused, match="log.txt"):
        crate.write(run, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists() and not list(tmp_path.glob(".crate-*"))


def test_what_cannot_be_exported_is_one_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def said(*words: str) -> str:
        assert cli.main(["crate", *words]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ")
        return lines[0]

    assert "no run lies there" in said(str(tmp_path / "nothing"))
    taken = tmp_path / "taken"
    taken.mkdir()
    assert "is there already" in said(str(run), "--out", str(taken))
    (run / "findings.csv").write_text("changed")
    assert "findings.csv" in said(str(run), "--out", str(tmp_path / "x.zip"))
    finish(run, status=manifest.RUNNING)
    assert "running" in said(str(run), "--out", str(tmp_path / "x.zip"))
    assert not (tmp_path / "x.zip").exists() and not list(taken.iterdir())


def test_a_full_disk_leaves_nothing_behind(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*words: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(HarnessError, match="No space left"):
        crate.write(run, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists() and not list(tmp_path.glob(".crate-*"))


def test_names_and_values_travel_as_they_are(run: Path, tmp_path: Path) -> None:
    atomic_write(run / "odd name é.txt", "x")
    np.save(run / "array.npy", np.zeros(2))
    finish(run)
    out = crate.write(run, tmp_path / "out")
    assert (out / "run" / "odd name é.txt").exists() and issues(out) == []
