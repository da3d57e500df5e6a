"""Representation: a planted change is found with its size, an unchanged model gives none, unclear images are not guessed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drawn import SKINS, crossed, draw, folder, person
from harness.audit import representation as audit
from harness.embed import Embeddings, embed
from harness.errors import HarnessError

PROMPTS, EACH = 14, 8
SIGHT = (*SKINS, "glasses", "bare")


class Reader:
    """Stands for a CLIP: a space whose axes are skin tones and glasses, measured on the drawn face; words point along them."""

    dim, logit_scale, sha256 = 5, 12.0, hashlib.sha256(b"reader of drawn faces").hexdigest()

    def encode_images(self, images: list[Image.Image], batch_size: int = 64) -> np.ndarray:
        rows = np.stack([self._face(np.asarray(i, np.float32)) for i in images])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def _face(self, pixels: np.ndarray) -> np.ndarray:
        tones = np.asarray([[int(c[i:i + 2], 16) for i in (1, 3, 5)] for c in SKINS.values()], np.float32)
        near = np.asarray([(np.abs(pixels - t).max(2) < 4).mean() for t in tones])
        rims = float((pixels.max(2) < 6).mean()) > 0.006
        return np.concatenate([near / max(near.sum(), 1e-6) + 0.05, [float(rims), float(not rims)]])

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        return np.stack([self._words(t) for t in texts]).astype(np.float32)

    def _words(self, text: str) -> np.ndarray:
        synonyms = {"light": ("light", "fair"), "medium": ("medium", "tan"), "dark": ("dark", "deep")}
        row = np.asarray([any(w in text.split() for w in synonyms[s]) for s in SKINS] + [
            "glasses" in text and "no glasses" not in text or "spectacles" in text, "no glasses" in text], float) + 0.01
        return row / np.linalg.norm(row)


SKIN_AND_GLASSES = audit.ATTRIBUTES[:2]


def pictures(path: Path, light: float, glasses: float) -> Embeddings:
    """Portraits with the given shares, the same people (but for what is planted) for the same prompts and seeds."""
    rng, drawn = np.random.default_rng(1), []
    for _ in range(PROMPTS * EACH):
        u, v = rng.random(2)
        skin = "light" if u < light else ("medium", "dark")[int(u * 1000) % 2]
        drawn.append(draw(person(rng, skin=skin, glasses=bool(v < glasses), beard=False)))
    return embed(folder(path, drawn, **crossed(PROMPTS, EACH)), Reader(), progress=lambda event: None)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict:
    root = tmp_path_factory.mktemp("people")
    shares = {"base": (0.35, 0.4), "same": (0.35, 0.4), "skewed": (0.75, 0.4)}
    return {name: audit.score(pictures(root / name, *s), Reader(), SKIN_AND_GLASSES) for name, s in shares.items()}


def by_subject(tuned: object, base: object) -> dict:
    return {f.subject: f for f in audit.findings(tuned, base, SKIN_AND_GLASSES)}


def test_the_reader_reads_what_is_drawn(rows: dict) -> None:
    rng, truth = np.random.default_rng(1), []
    for _ in range(PROMPTS * EACH):
        u, v = rng.random(2)
        truth.append(("light" if u < 0.35 else ("medium", "dark")[int(u * 1000) % 2], "glasses" if v < 0.4 else "none"))
        person(rng)
    for column, name in enumerate(("skin", "glasses")):
        part = rows["base"][rows["base"]["attribute"] == name]
        sure = (part["label"] != audit.UNREAD).to_numpy()
        right = part["label"].to_numpy() == [t[column] for t in truth]
        assert sure.mean() > 0.8 and right[sure].mean() > 0.97


def test_a_planted_change_is_found_with_its_size(rows: dict) -> None:
    found = by_subject(rows["skewed"], rows["base"])
    light = found["skin: light"]
    assert light.verdict == "found" and light.low <= 0.40 <= light.high and light.low > 0.2
    assert light.clusters == PROMPTS and light.n + light.abstained == PROMPTS * EACH
    assert found["glasses"].verdict == "not found"


def test_an_unchanged_model_changes_nothing(rows: dict) -> None:
    for finding in by_subject(rows["same"], rows["base"]).values():
        assert finding.verdict == "not found" and finding.estimate == 0
        assert finding.low < 0 < finding.high


def test_few_prompts_and_unreadable_images_cannot_tell(rows: dict) -> None:
    few = rows["skewed"]["prompt"].isin(sorted(set(rows["skewed"]["prompt"]))[:9])
    nine = by_subject(rows["skewed"][few], rows["base"][few])["skin: light"]
    assert nine.verdict == "cannot tell" and "at least 10" in nine.why
    blind = rows["skewed"].assign(label=audit.UNREAD)
    unread = by_subject(blind, rows["base"])["skin: light"]
    assert unread.verdict == "cannot tell" and unread.abstained == PROMPTS * EACH


def test_unread_pairs_are_counted_and_bounded(rows: dict) -> None:
    some = rows["skewed"].copy()
    some.loc[some.index[:20], "label"] = audit.UNREAD
    finding = by_subject(some, rows["base"])["skin: light"]
    assert finding.abstained >= 20 and "could not be read" in finding.why


def test_an_unclear_picture_is_not_guessed() -> None:
    clip = Reader()
    half = clip.encode_texts(["light skin"]) + clip.encode_texts(["dark skin"])
    import pandas as pd

    table = pd.DataFrame({"file": ["x.png"], "prompt": ["p"], "seed": [0]})
    unclear = Embeddings((half / np.linalg.norm(half)).astype(np.float32), ["x"], clip.sha256, table)
    assert list(audit.score(unclear, clip, SKIN_AND_GLASSES[:1])["label"]) == [audit.UNREAD]


def test_shares_sum_to_one_with_their_own_row_for_the_unread(rows: dict) -> None:
    table = audit.shares(rows["base"].assign(label=["cannot tell"] * 5 + list(rows["base"]["label"][5:])))
    assert np.allclose(table.groupby("attribute")["share"].sum(), 1)
    assert (table["low"] <= table["share"]).all() and (table["label"] == "cannot tell").any()


def test_gender_and_age_are_not_read() -> None:
    words = " ".join(p for a in audit.ATTRIBUTES for ps in a.classes.values() for p in ps) + " ".join(audit.TEMPLATES)
    assert not {"man", "woman", "male", "female", "boy", "girl", "old", "young"} & set(words.split())


def test_another_clip_is_refused(rows: dict, tmp_path: Path) -> None:
    images = embed(folder(tmp_path / "x", [draw(person(np.random.default_rng(0)))]), Reader(), progress=lambda event: None)
    other = Reader()
    other.sha256 = "0" * 64
    with pytest.raises(HarnessError, match="another CLIP"):
        audit.score(images, other)
