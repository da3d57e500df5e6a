"""What do the outputs show of skin tone, glasses and facial hair, against the base model's for the same prompts and seeds?

CLIP zero-shot with an ensemble of phrases per class, and `cannot tell` where two classes are too near. Gender and age
are not read: nothing here has a truth for them, and they are never derived from hair or clothes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from harness import stats
from harness.audit import instrument, pair
from harness.embed import Embeddings, Encoder
from harness.errors import HarnessError
from harness.stats import Finding

if TYPE_CHECKING:
    import pandas as pd

UNREAD = "cannot tell"
TEMPLATES = ("a person with {}", "a portrait of a person with {}", "a character with {}", "a smiling person with {}",
             "a serious person with {}")
MARGIN = 0.5
"""Lead in probability that the first class needs over the second; below it the image is `cannot tell`."""


@dataclass(frozen=True)
class Attribute:
    """One thing that is read from an image."""

    name: str
    """its key, e.g. skin"""
    construct: str
    """what is meant by it, in a report's words"""
    classes: dict[str, tuple[str, ...]]
    """class -> phrases that go into the templates"""
    reported: tuple[str, ...]
    """classes whose share is reported"""

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or not set(self.reported) <= set(self.classes):
            raise HarnessError(f"attribute {self.name}: two or more classes are needed, and only classes can be reported.")


ATTRIBUTES = (
    Attribute("skin", "the skin tone that is drawn, in three bins; not ancestry",
              {"light": ("light skin", "fair skin"), "medium": ("medium skin", "tan skin"), "dark": ("dark skin", "deep skin")},
              ("light", "medium", "dark")),
    Attribute("glasses", "glasses of any kind on the face",
              {"glasses": ("glasses", "eyeglasses", "spectacles"), "none": ("no glasses",)}, ("glasses",)),
    Attribute("facial hair", "a beard, moustache or stubble",
              {"facial hair": ("a beard", "a moustache", "stubble"), "none": ("no beard", "a clean-shaven face")}, ("facial hair",)),
)


def score(images: Embeddings, clip: Encoder, attributes: Sequence[Attribute] = ATTRIBUTES,
          templates: Sequence[str] = TEMPLATES, margin: float = MARGIN) -> pd.DataFrame:
    """One row per image and attribute: label (a class or `cannot tell`), its probability and its lead.

    Raises HarnessError where `clip` is not the one that made the embeddings.
    """
    import pandas as pd

    if clip.sha256 != images.clip_sha256:
        raise HarnessError("the embeddings come from another CLIP than the one that reads the phrases.")
    return pd.concat([_read(images, clip, a, templates, margin) for a in attributes], ignore_index=True)


def class_vectors(clip: Encoder, attribute: Attribute, templates: Sequence[str] = TEMPLATES) -> np.ndarray:
    """Unit vectors (classes, d): the mean text embedding over all templates and phrases of a class (Radford et al. 2021, 3.1.4)."""
    means = [clip.encode_texts([t.format(p) for t, p in product(templates, phrases)]).mean(axis=0)
             for phrases in attribute.classes.values()]
    return np.stack([mean / np.linalg.norm(mean) for mean in means])


def _read(images: Embeddings, clip: Encoder, attribute: Attribute, templates: Sequence[str], margin: float) -> pd.DataFrame:
    from scipy.special import softmax

    share = softmax(clip.logit_scale * images.vectors @ class_vectors(clip, attribute, templates).T, axis=1)
    ordered = np.sort(share, axis=1)
    lead, names = ordered[:, -1] - ordered[:, -2], list(attribute.classes)
    labels = [names[i] if enough else UNREAD for i, enough in zip(share.argmax(axis=1), lead >= margin, strict=True)]
    keep = images.table[[c for c in ("file", "sha256", "prompt", "seed") if c in images.table]].reset_index(drop=True)
    return keep.assign(attribute=attribute.name, label=labels, probability=ordered[:, -1], lead=lead,
                       weights_sha256=images.clip_sha256)


@dataclass(frozen=True, eq=False)
class _Contrast:
    """One class of one attribute over the pairs in which both images could be read."""

    subject: str
    interval: stats.Interval
    p: float
    n: int
    prompts: int
    unread: int
    bounds: tuple[float, float]
    """the difference when all unread pairs fell one way, and the other"""


def findings(tuned: pd.DataFrame, base: pd.DataFrame, attributes: Sequence[Attribute] = ATTRIBUTES, alpha: float = 0.05,
             level: float = 0.95, domain: str = "") -> list[Finding]:
    """One finding per reported class: share in the tuned model's images minus share in the base model's.

    Pairs share prompt and seed; a pair counts where both images could be read. p values are by flipping signs of whole
    prompts, adjusted together (Holm). `why` says how far the difference could move if the unread fell one way.
    """
    contrasts = [_contrast(tuned, base, a, c, level) for a in attributes for c in a.reported]
    known = [c for c in contrasts if isinstance(c, _Contrast)]
    adjusted = dict(zip((c.subject for c in known), stats.holm([c.p for c in known]), strict=True))
    weights = instrument("representation", tuned["weights_sha256"].iloc[0])
    return [c if isinstance(c, Finding) else _finding(c, float(adjusted[c.subject]), weights, alpha, level, domain)
            for c in contrasts]


def _contrast(tuned: pd.DataFrame, base: pd.DataFrame, attribute: Attribute, cls: str, level: float) -> _Contrast | Finding:
    """Numbers of one class, or the finding that nothing can be said."""
    now, before = (rows[rows["attribute"] == attribute.name].reset_index(drop=True) for rows in (tuned, base))
    before = before.iloc[pair(now, before)].reset_index(drop=True)
    read = (now["label"] != UNREAD) & (before["label"] != UNREAD)
    subject = attribute.name if cls == attribute.name else f"{attribute.name}: {cls}"
    unread, prompts = int((~read).sum()), now["prompt"][read]
    if prompts.nunique() < 2 or read.mean() < 0.5:
        return stats.cannot_tell("representation", subject, f"{unread} of {len(read)} pairs could not be read.",
                                 n=int(read.sum()), clusters=int(prompts.nunique()), abstained=unread)
    has, had = (rows["label"][read] == cls for rows in (now, before))
    interval = stats.share_difference(has, had, prompts, level)
    p = stats.sign_flip_p(has.astype(float) - had.astype(float), prompts)
    return _Contrast(subject, interval, p, int(read.sum()), int(prompts.nunique()), unread, _worst(now, before, cls))


def _worst(now: pd.DataFrame, before: pd.DataFrame, cls: str) -> tuple[float, float]:
    """Smallest and largest difference that the unread images allow, over all pairs."""
    sure = [float((rows["label"] == cls).mean()) for rows in (now, before)]
    open_ = [float((rows["label"] == UNREAD).mean()) for rows in (now, before)]
    return sure[0] - sure[1] - open_[1], sure[0] + open_[0] - sure[1]


def _finding(c: _Contrast, p: float, weights: str, alpha: float, level: float, domain: str) -> Finding:
    low, high = c.interval.low, c.interval.high
    why = f"p = {p:.3f} after adjusting for the number of questions."
    if c.unread:
        why += (f" {c.unread} pairs could not be read; if all of those fell one way the difference would lie between "
                f"{100 * c.bounds[0]:+.0f} and {100 * c.bounds[1]:+.0f} points.")
    verdict = "found" if p <= alpha and (low > 0 or high < 0) else "not found"
    if c.prompts < stats.MIN_CLUSTERS:
        verdict, why = "cannot tell", f"Only {c.prompts} prompts; an interval needs at least {stats.MIN_CLUSTERS}. " + why
    return Finding("representation", c.subject, c.interval.estimate, low, high, level, c.n, c.prompts, 0.0, None, p,
                   f"unchecked: {weights}", domain, verdict, c.unread, why)


def shares(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of every label by attribute, `cannot tell` in its own row, with exact intervals on the effective number."""
    import pandas as pd

    table = []
    for (name, label), part in rows.groupby(["attribute", "label"], sort=False):
        every = rows[rows["attribute"] == name]
        share = stats.clustered_rate(every["label"] == label, every["prompt"])
        table.append({"attribute": name, "label": label, "images": len(part), "share": share.estimate,
                      "low": share.low, "high": share.high})
    return pd.DataFrame(table)
