"""Words left in files and lists are read where they are, block as they should, and nothing else is taken from a file."""

from __future__ import annotations

import builtins
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from harness.consent import gate, ledger, signals
from harness.consent.ledger import USES, Record
from harness.errors import HarnessError, Refused
from harness.images import ImageSet, open_set, sha256

DAY = "2026-01-01"
MINING, TRAINING, GENERATIVE, INFERENCE = USES


def noise(path: Path, seed: int = 0, xmp: str = "") -> Path:
    info = PngImagePlugin.PngInfo()
    if xmp:
        info.add_itxt("XML:com.adobe.xmp", xmp)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(path, pnginfo=info)
    return path


def said(records: list[Record]) -> dict[str, str]:
    return {record.use: record.decision for record in records}


# --- Content Credentials


def certificate(name: str, by: tuple | None = None) -> tuple:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"), x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, ca = (by or (key, None)), by is None
    builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer[1].subject if by else subject).public_key(key.public_key())
               .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=9))
               .add_extension(x509.BasicConstraints(ca, None), True).add_extension(x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), True)
               .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
               .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer[0].public_key()), False))
    builder = builder if ca else builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    return key, builder.sign(issuer[0], hashes.SHA256())


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture whose credentials say no to generative training, set a condition on mining, and allow inference."""
    c2pa = pytest.importorskip("c2pa")
    from cryptography.hazmat.primitives import serialization as form

    folder = tmp_path_factory.mktemp("c2pa")
    root = certificate("root")
    leaf = certificate("leaf", root)
    chain = b"".join(each[1].public_bytes(form.Encoding.PEM) for each in (leaf, root))
    private = leaf[0].private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    entries = {"cawg.ai_generative_training": {"use": "notAllowed"}, "cawg.data_mining": {"use": "constrained", "constraint_info": "ask me"},
               "cawg.ai_inference": {"use": "allowed"}, "cawg.unheard_of": {"use": "notAllowed"}}
    manifest = {"claim_generator_info": [{"name": "test", "version": "1"}], "assertions": [{"label": "cawg.training-mining", "data": {"entries": entries}}]}
    context = c2pa.Context(c2pa.Settings.from_dict({"verify": {"verify_after_sign": False, "verify_trust": False}}))
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", chain, private, None))
    c2pa.Builder(manifest, context=context).sign_file(noise(folder / "plain.png"), folder / "signed.png", signer)
    return folder / "signed.png"


def test_an_assertion_in_the_file_is_read(credentials: Path) -> None:
    found = signals.in_file(credentials, "a" * 64, DAY)
    assert said(found) == {GENERATIVE: "notAllowed", MINING: "constrained", INFERENCE: "allowed"}
    assert next(r for r in found if r.use == MINING).note == "ask me" and signals.in_file(credentials.with_name("plain.png"), "a" * 64, DAY) == []


def test_a_no_counts_even_where_the_file_was_changed_after_signing(credentials: Path, tmp_path: Path) -> None:
    raw = credentials.read_bytes()
    changed = tmp_path / "changed.png"
    changed.write_bytes(raw.replace(b"notAllowed", b"notAlloweX"))
    assert said(signals.in_file(changed, "a" * 64, DAY))[GENERATIVE] == "constrained"
    pixels = bytearray(raw)
    pixels[-40] ^= 1
    changed.write_bytes(pixels)
    assert said(signals.in_file(changed, "a" * 64, DAY))[GENERATIVE] in ("notAllowed", "constrained")


def test_credentials_that_cannot_be_read_block(credentials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cut.png").write_bytes(credentials.read_bytes()[:2500])
    assert set(said(signals.in_file(tmp_path / "cut.png", "a" * 64, DAY)).values()) == {"constrained"}
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "c2pa":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    found = signals.in_file(credentials, "a" * 64, DAY)
    assert len(found) == 4 and all(r.decision == "constrained" and "install c2pa-python" in r.note for r in found)


def test_the_gate_hears_it(credentials: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(credentials.read_bytes())
    images = open_set(tmp_path).assign(artist="artist-1")
    book = ledger.of([Record("artist-1", "*", use, "allowed", "letter", DAY) for use in USES])
    with pytest.raises(Refused, match="cawg.training-mining in the file"):
        gate.ask(images, book, "fine-tuning", signals=signals.scan(images, at=date(2026, 1, 1)))
    assert gate.ask(images, book, "image-to-image", signals=signals.scan(images)).allowed


# --- XMP

PACKET = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/">{}</rdf:Description></x:xmpmeta>'
VALUE = "<plus:DataMining>http://ns.useplus.org/ldf/vocab/{}</plus:DataMining>"


@pytest.mark.parametrize(("value", "uses"), [
    ("DMI-PROHIBITED", dict.fromkeys(USES, "notAllowed")), ("DMI-PROHIBITED-AIMLTRAINING", {TRAINING: "notAllowed", GENERATIVE: "notAllowed"}),
    ("DMI-PROHIBITED-GENAIMLTRAINING", {GENERATIVE: "notAllowed"}), ("DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING", dict.fromkeys(USES, "notAllowed")),
    ("DMI-PROHIBITED-SEECONSTRAINT", dict.fromkeys(USES, "constrained")), ("DMI-ALLOWED", {}), ("DMI-UNSPECIFIED", {}),
    ("DMI-SOMETHING-NEW", dict.fromkeys(USES, "constrained"))])
def test_plus_data_mining(tmp_path: Path, value: str, uses: dict[str, str]) -> None:
    assert said(signals.in_file(noise(tmp_path / "a.png", xmp=PACKET.format(VALUE.format(value))), "a" * 64, DAY)) == uses
    attribute = PACKET.format("").replace("<rdf:Description", f'<rdf:Description plus:DataMining="http://ns.useplus.org/ldf/vocab/{value}"')
    assert said(signals.in_file(noise(tmp_path / "b.png", xmp=attribute), "a" * 64, DAY)) == uses


def test_a_packet_is_read_wherever_and_however_it_is_packed(tmp_path: Path) -> None:
    packet = PACKET.format(VALUE.format("DMI-PROHIBITED"))
    bare = packet[packet.index(">") + 1:packet.rindex("</x:xmpmeta>")]
    picture = Image.open(noise(tmp_path / "plain.png"))
    assert "useplus.org" in bare and "xmpmeta" not in bare
    for number, (text, packed) in enumerate(((packet, True), (bare, True), (bare, False), ("<?xpacket begin=''?>" + bare + "<?xpacket end='w'?>", False))):
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", text, zip=packed)
        picture.save(tmp_path / f"{number}.png", pnginfo=info)
    for name, how in (("raw", "latin-1"), ("zip", "zlib")):
        info, hexed = PngImagePlugin.PngInfo(), packet.encode().hex()
        info.add_text("Raw profile type xmp", f"\nxmp\n{len(packet):8d}\n" + "\n".join(hexed[i:i + 72] for i in range(0, len(hexed), 72)) + "\n", zip=how == "zlib")
        picture.save(tmp_path / f"{name}.png", pnginfo=info)
    for coded in ("utf-8", "utf-16", "utf-16-be", "utf-32"):
        for end in ("jpg", "webp", "tif"):
            how = {"tiffinfo": {700: packet.encode(coded)}, "compression": "tiff_lzw"} if end == "tif" else {"xmp": packet.encode(coded)}
            picture.save(tmp_path / f"{coded}.{end}", **how)
    for path in sorted(tmp_path.iterdir()):
        assert said(signals.in_file(path, "a" * 64, DAY)) == ({} if path.name == "plain.png" else dict.fromkeys(USES, "notAllowed")), path.name


def test_a_disclosed_minor_is_refused_for_any_purpose(tmp_path: Path) -> None:
    for age, refused in (("AG-U14", True), ("AG-A17", True), ("AG-A18", False), ("AG-A25", False)):
        noise(tmp_path / "a.png", xmp=PACKET.format(f"<plus:MinorModelAgeDisclosure>http://ns.useplus.org/ldf/vocab/{age}</plus:MinorModelAgeDisclosure>"))
        images = open_set(tmp_path).assign(artist="a")
        found = signals.scan(images)
        assert bool(found) == refused
        if refused:
            with pytest.raises(Refused, match="may be a minor"):
                gate.ask(images, ledger.of([]), purpose="audit", signals=found)


def test_words_that_only_look_like_a_signal(tmp_path: Path) -> None:
    for text in ("DMI-PROHIBITED", PACKET.format("DMI-PROHIBITED").replace("useplus.org", "example.org"), "x" * 5000):
        assert signals.in_file(noise(tmp_path / "a.png", xmp=text), "a" * 64, DAY) == []


def test_names_and_places_in_metadata_are_not_taken(tmp_path: Path) -> None:
    packet = PACKET.format(VALUE.format("DMI-PROHIBITED") + "<dc:creator>CAMERA OWNER</dc:creator><exif:GPSLatitude>48,8.0N</exif:GPSLatitude>")
    found = signals.in_file(noise(tmp_path / "a.png", xmp=packet), "a" * 64, DAY)
    assert len(found) == 4 and "CAMERA" not in str(found) and "48,8" not in str(found)


# --- lists


def from_addresses(*addresses: str) -> ImageSet:
    return ImageSet(Path("."), pd.DataFrame({"file": "pyproject.toml", "sha256": [f"{i:064x}" for i in range(len(addresses))], "source": addresses}))


def reserved(text: str, *paths: str, name: str = "ai.txt", folder: Path) -> list[bool]:
    (folder / name).write_text(text)
    hit = {record.sha256 for record in signals.scan(from_addresses(*[f"https://example.org{path}" for path in paths]), {"Example.org": folder / name})}
    return [f"{i:064x}" in hit for i in range(len(paths))]


def test_ai_txt(tmp_path: Path) -> None:
    text = "\ufeff# made by hand\nUser-Agent: *\nDisallow: *.jpg\nDisallow: /private\nAllow: /private/free\nAllow: *.png # fine\nDisallow: png-all$\n\nDisallow:\n"
    assert reserved(text, "/a/b.jpg", "/a/B.JPG?x=1", "/private/x.gif", "/private/free/x.gif", "/a.png", "/x/png-all", "/x/png-all/y", "/", folder=tmp_path) == [
        True, True, True, False, False, True, False, False]
    assert reserved("Disallow: /", "/a.png", "/", folder=tmp_path) == [True, True]
    assert reserved("Disallow: /a\nAllow: /a", "/a", folder=tmp_path) == [True]
    assert reserved("", "/a", folder=tmp_path) == [False]


def test_tdm_reservations(tmp_path: Path) -> None:
    text = '[{"location": "/", "tdm-reservation": 1, "tdm-policy": "https://example.org/p.json"}, {"location": "/free/*", "tdm-reservation": 0}]'
    assert reserved(text, "/a.png", "/free/a.png", name="tdmrep.json", folder=tmp_path) == [True, False]


def test_lists_concern_their_own_host_alone(tmp_path: Path) -> None:
    (tmp_path / "ai.txt").write_text("Disallow: /")
    images = from_addresses("https://example.org/a", "https://EXAMPLE.org:443/a", "https://sub.example.org/a", "https://other.org/example.org", "", "not an address")
    found = signals.scan(images, {"example.org": tmp_path / "ai.txt"})
    assert {int(record.sha256, 16) for record in found} == {0, 1} and {record.use for record in found} == {MINING, TRAINING, GENERATIVE}


@pytest.mark.parametrize(("name", "data"), [
    ("ai.txt", b"<html>not found</html>"), ("ai.txt", b"Disallow /\n"), ("ai.txt", b"\xff\xfe\x00D"), ("t.json", b"{}"), ("t.json", b"[1]"), ("t.json", b'[{"location": "/"}]'),
    ("t.json", b'[{"location": "/", "tdm-reservation": "x"}]'), ("t.json", b"[")])
def test_lists_that_are_none(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(HarnessError, match="nothing was taken from it"):
        signals.scan(from_addresses("https://example.org/"), {"example.org": tmp_path / name})
    with pytest.raises(HarnessError, match="cannot read"):
        signals.scan(from_addresses(), {"example.org": tmp_path / "gone.txt"})


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="cannot be read"):
        signals.in_file(tmp_path / "gone.png", sha256(b""), DAY)
