"""Planted secrets reach no manifest, no notebook, not even one that is half done, and no report; whichever way they try."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import nbformat
import pytest
from launched import FINISH, START, cell, folders, made, no_kernel, only, results, run, write_notebook

from harness import provenance, runs
from harness.errors import Refused
from harness.runs import crate, kernel, launch

__all__ = ["made", "no_kernel", "results"]
# Put together here, so that scanners of this file find no token.
HUB, CLOUD = "hf_" + "a1B2c3D4e5" * 3, "AKIA" + "ABCDEFGH12345678"
QUOTED = "pass\"phrase & 'very' <secret>/pl4nted"
LEAK = """import os, json, html, urllib.parse
secret = os.environ["PLANTED_PASSPHRASE"]
print(secret, repr(secret), json.dumps(secret), html.escape(secret), urllib.parse.quote(secret, safe=""))
run.note("secret", {secret: [os.environ["PLANTED_ACCESS_KEY"]]})
os.environ["PLANTED_HUB_TOKEN"]"""
HALF = """half = (run.folder / "notebook.part.ipynb").read_text()
assert "PLANTED_HUB_TOKEN" in half and os.environ["PLANTED_HUB_TOKEN"] not in half and "pl4" + "nted" not in half"""
RAISE = 'raise ValueError("cannot log in with " + secret + " and " + os.environ["PLANTED_HUB_TOKEN"] + " at https://me:" + "passw0rd" + "@example.org/x")'


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Secrets in the environment, and what must be found nowhere."""
    for name, value in (("PLANTED_HUB_TOKEN", HUB), ("PLANTED_ACCESS_KEY", CLOUD), ("PLANTED_PASSPHRASE", QUOTED)):
        monkeypatch.setenv(name, value)
    return [HUB, CLOUD, "pl4nted", "me:passw0rd", "remote-passw0rd"]


def everything(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@e", *words], check=True, capture_output=True)


def test_environment_remote_output_and_traceback(tmp_path: Path, results: Path, planted: list[str]) -> None:
    (tmp_path / ".gitignore").write_text("results\n")
    path = write_notebook(tmp_path, "nb", START.format(name="nb"), LEAK, HALF, RAISE, FINISH)
    git(tmp_path, "init", "-q")
    git(tmp_path, "remote", "add", "origin", "https://me:" + "remote-passw0rd" + "@example.org/mine.git")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    assert run(path) == 1
    found = only(results)
    assert found["error"]["reason"] == "ValueError: cannot log in with *** and *** at https://***@example.org/x"
    assert found["notes"] == {"secret": {"***": ["***"]}}
    assert found["git"]["origin"] == "https://example.org/mine.git" and found["git"]["dirty"] is False and len(found["git"]["commit"]) == 40
    text = everything(results)
    assert [secret for secret in planted if secret in text] == []
    assert "*** '***' \\\"***\\\" *** ***" in text or text.count("***") > 8
    saved = json.loads((folders(results)[0] / "notebook.ipynb").read_text())
    assert any(output["output_type"] == "error" for each in saved["cells"] for output in each.get("outputs", []))


def test_a_report_or_table_with_a_secret_is_not_finished(made: Path, planted: list[str]) -> None:
    folder = launch.plan(made, None, {}).folder
    (folder / "tables").mkdir()
    escaped = "<p>pass&quot;phrase &amp; &#x27;very&#x27; &lt;secret&gt;/pl4nted</p>"
    for leak in (f"<p>{HUB}</p>", f"<p>{CLOUD}</p>", escaped, "<a href='https://me:" + "passw0rd@example.org'>"):
        for name in ("report.html", "tables/rows.csv", "story.json"):
            (folder / name).write_text(leak)
            with pytest.raises(Refused, match=f"{Path(name).name} holds what looks like a secret"):
                runs.Run(folder).finish()
            (folder / name).unlink()


@pytest.mark.parametrize("name", ["out.tsv", "cfg.toml", "LOG.TXT", "deep/no-ending", "page.HTML"])
def test_text_of_any_name_is_looked_through(made: Path, name: str) -> None:
    folder = launch.plan(made, None, {}).folder
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(f"a\tb\n{HUB}\n")
    with pytest.raises(Refused, match="holds what looks like a secret"):
        runs.Run(folder).finish()
    with pytest.raises(Refused, match="holds what looks like a secret"):
        crate._check(folder, {"status": "complete"}, folder.parent / "out.zip")
    (folder / name).write_bytes(b"\x89PNG\xff" + HUB.encode() if "." not in Path(name).name else b"")
    runs.Run(folder).finish()


@pytest.mark.parametrize("where", ["source", "text", "data", "traceback"])
def test_a_secret_of_several_lines_reaches_no_saved_notebook(tmp_path: Path, where: str) -> None:
    """nbformat keeps a text as a list of lines, each of which is harmless alone."""
    lines = ["-----BEGIN RSA PRIVATE" + " KEY-----\n", "MIIEabc\n", "MIIEdef\n", "-----END RSA PRIVATE" + " KEY-----\n", "after"]
    outputs = {"source": {}, "text": {"output_type": "stream", "name": "stdout", "text": lines}, "traceback": {"output_type": "error", "ename": "E", "evalue": "", "traceback": lines},
               "data": {"output_type": "display_data", "metadata": {}, "data": {"text/plain": lines, "application/json": {"a": ["b"]}}}}[where]
    found = {**cell("x = 1"), **({"source": lines} if where == "source" else {"outputs": [outputs]})}
    kernel.Notebooks.write(json.dumps({"cells": [found], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}), str(tmp_path / "a.ipynb"))
    text = (tmp_path / "a.ipynb").read_text()
    assert "MIIE" not in text and "after" in text and ('"b"' in text) == (where == "data")
    nbformat.validate(json.loads(text))


def test_pictures_inside_a_report_are_not_mistaken_for_secrets(made: Path) -> None:
    folder = launch.plan(made, None, {}).folder
    (folder / "report.html").write_text(f'<img src="data:image/png;base64,{"AIza" + "b" * 35}/{CLOUD}/">')
    assert runs.Run(folder).finish() == folder / "report.html"


@pytest.mark.parametrize("value", [HUB, "https://me:" + "passw0rd@example.org/data", QUOTED])
def test_a_secret_given_as_a_parameter_starts_nothing(tmp_path: Path, results: Path, planted: list[str], capsys: pytest.CaptureFixture[str], value: str) -> None:
    assert run(write_notebook(tmp_path, "nb", "x = 1"), "-p", f"data={value}") == 2
    assert "`data` looks like a secret" in capsys.readouterr().err and not results.exists()


def test_the_environment_is_never_written_down(made: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARMLESS_BUT_MINE", "a value that nobody asked for")
    assert run(made, "--force") == 0
    assert "a value that nobody asked for" not in everything(results)


def test_masking_leaves_no_part_of_a_longer_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "first-half-of-it")
    monkeypatch.setenv("B_TOKEN", "first-half-of-it-and-the-rest")
    assert provenance.mask("x first-half-of-it-and-the-rest y first-half-of-it z") == "x *** y *** z"
