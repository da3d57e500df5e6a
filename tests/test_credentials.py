"""Model cards that the hub can read, and content credentials that fit their picture or say that they do not."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

import sealed
from harness.errors import HarnessError
from harness.finetune import Adapter
from harness.report import certificate, credentials, model_card

USES = {"cawg.ai_generative_training": "notAllowed", "cawg.data_mining": "constrained"}


def adapter(**consent: object) -> Adapter:
    decision = {"allowed": True, "purpose": "training", "use": "cawg.ai_generative_training", "at": "2026-01-31", "reasons": [], "images": 3, "blocked": 0,
                "ledger_sha256": "ab" * 32, "exportable": True} | consent
    manifest = {"consent": decision, "recipe": "lora", "base_model_sha256": "cd" * 32, "resolution": 64, "mixed_precision": "no",
                "settings": {"steps": 20, "mixed_precision": "auto", "resolution": None}, "versions": {"torch": "2"},
                "images": [{"artist": "artist-07", "sha256": "0" * 64}] * 2 + [{"artist": "artist-08", "sha256": "1" * 64}]}
    return Adapter(Path("adapter/weights.safetensors"), manifest, None)


def test_the_hub_reads_the_card_and_finds_the_decision(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(model_card.write(adapter(), tmp_path, "cc-by-4.0", "someone/base", "A hand | of <one>", limits=["Only drawings."],
                                           credits=[{"name": "A Maker", "work": "A Style", "licence": "CC BY 4.0"}]))
    front = card.data.to_dict()
    assert front["license"] == "cc-by-4.0" and front["base_model"] == "someone/base" and front["pipeline_tag"] == "text-to-image"
    assert front["consent"] == {"purpose": "training", "use": "cawg.ai_generative_training", "allowed": True, "exportable": True, "images": 3, "blocked": 0,
                                "at": "2026-01-31", "ledger_sha256": "ab" * 32}
    assert "not-for-publication" not in front["tags"] and "Not for publication" not in card.text
    assert "artist-07 (2), artist-08 (1)" in card.text and "all of them are allowed" in card.text and "| mixed precision | no |" in card.text
    assert "<one>" not in card.text and "| resolution | 64 |" in card.text and "A Maker, A Style, CC BY 4.0" in card.text


def test_a_card_of_an_audit_says_so_first(tmp_path: Path) -> None:
    no = adapter(allowed=False, purpose="audit", exportable=False, blocked=2, reasons=["artist-07: 2 works notAllowed"])
    text = model_card.write(no, tmp_path, "cc-by-4.0", "base", "T").read_text(encoding="utf-8")
    assert "exportable: false" in text and "- not-for-publication" in text and text.index("Not for publication") < text.index("## Training")
    assert "2 of them are not allowed" in text and "- artist-07: 2 works notAllowed" in text
    assert "artist-07" not in model_card.write(no, tmp_path, "cc-by-4.0", "base", "T", pseudonyms=False).read_text(encoding="utf-8")


def test_a_card_without_licence_or_decision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="licence is empty"):
        model_card.write(adapter(), tmp_path, " ", "base", "T")
    bare = Adapter(Path("a"), {"consent": {}}, None)
    with pytest.raises(HarnessError, match="no consent decision"):
        model_card.write(bare, tmp_path, "mit", "base", "T")
    assert not list(tmp_path.iterdir())


def test_credentials_come_back_as_they_were_given(tmp_path: Path) -> None:
    pytest.importorskip("c2pa", reason="c2pa-python is not installed; content credentials were not tried")
    chain, key = certificate.make(tmp_path, "A Signer")
    (tmp_path / "a.png").write_bytes(sealed.picture(1, (64, 64)))
    assert credentials.read(tmp_path / "a.png") is None
    out = credentials.sign(tmp_path / "a.png", tmp_path / "signed.png", chain, key, USES, {"model": "miniature", "run": "3c5572c09bc0"})
    held = credentials.read(out)
    assert held.intact and held.title == "a.png" and held.generator == "Likeness" and held.issuer == "A Signer"
    assert held.assertions["cawg.training-mining"]["entries"]["cawg.ai_generative_training"] == {"use": "notAllowed"}
    assert held.assertions["org.likeness.facts"] == {"model": "miniature", "run": "3c5572c09bc0"}
    actions = next(data for label, data in held.assertions.items() if label.startswith("c2pa.actions"))
    assert actions["actions"][0]["digitalSourceType"].endswith("trainedAlgorithmicMedia")
    assert key.read_bytes().splitlines()[1] not in out.read_bytes() and stat.S_IMODE(key.stat().st_mode) == 0o600
    with pytest.raises(HarnessError, match="a key already"):
        certificate.make(tmp_path, "A Signer")


def test_a_changed_picture_does_not_fit_its_credentials(tmp_path: Path) -> None:
    pytest.importorskip("c2pa", reason="c2pa-python is not installed; content credentials were not tried")
    import zlib

    chain, key = certificate.make(tmp_path, "A Signer")
    (tmp_path / "a.png").write_bytes(sealed.picture(1, (64, 64)))
    data = bytearray(credentials.sign(tmp_path / "a.png", tmp_path / "b.png", chain, key, USES).read_bytes())
    place = data.index(b"IDAT")
    length = int.from_bytes(data[place - 4:place])
    data[place + 100] ^= 1
    data[place + 4 + length:place + 8 + length] = zlib.crc32(data[place:place + 4 + length]).to_bytes(4)
    (tmp_path / "b.png").write_bytes(data)
    held = credentials.read(tmp_path / "b.png")
    assert not held.intact and "assertion.dataHash.mismatch" in held.problems


def test_what_cannot_be_signed_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("c2pa", reason="c2pa-python is not installed; content credentials were not tried")
    chain, key = certificate.make(tmp_path, "A Signer")
    (tmp_path / "a.png").write_bytes(sealed.picture(1))
    (tmp_path / "a.bmp").write_bytes(b"BM")
    (tmp_path / "not.pem").write_text("hello")
    for image, cert, own, uses, match in (("a.bmp", chain, key, USES, "this format"), ("a.png", tmp_path / "not.pem", key, USES, "not signed with"),
                                          ("a.png", chain, tmp_path / "not.pem", USES, "not a private key"), ("a.png", chain, key, {"training": "no"}, "CAWG"),
                                          ("a.png", tmp_path / "gone.pem", key, USES, "cannot be read")):
        with pytest.raises(HarnessError, match=match):
            credentials.sign(tmp_path / image, tmp_path / "out.png", cert, own, uses)
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(HarnessError, match="need c2pa-python"):
        credentials.read(tmp_path / "a.png")
    assert not (tmp_path / "out.png").exists()
