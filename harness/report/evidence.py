"""The findings under the questions that a discussion of rights asks, and what they cost beside what others paid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOT_ADVICE = ("This sheet sorts what was measured. It is not legal advice, it decides nothing, and courts ask these questions in their own "
              "ways. What a measurement leaves open stays open here.")
HEADINGS = {
    "taken": ("What was taken?", "Which works went into the model, and whether those whose works they are had agreed."),
    "much": ("How much of it?", "Whether single works come out again, and how often."),
    "recognisable": ("What is recognisable?", "Whether a hand or a person can be told in what the model makes."),
    "else": ("What else do the outputs show?", "What the same pictures say about the people in them."),
}
UNMEASURED = (
    "Effect on the market: whether outputs take the place of commissions or sales, or change what the works earn.",
    "Effect on people: whether those who see an output take it for the maker’s own, or believe that the maker agreed.",
    "Effect on the maker: reputation, and what it is like to meet one’s own hand or face in pictures one did not make.",
    "Intent, and whether any use was lawful.",
)


@dataclass(frozen=True)
class Mark:
    """What somebody else's fine-tune took, as it was made public."""

    what: str
    """whose and what"""
    time: str
    """how long it took"""
    money: str
    """what it cost, in US dollars of the year"""
    source: str
    """who reported it"""


PUBLIC = (
    Mark("A style model made from 32 illustrations, 2022", "2.5 hours", "under $2", "https://waxy.org/2022/11/invasive-diffusion-how-one-unwilling-illustrator-found-herself-turned-into-an-ai-model/"),
    Mark("DreamBooth of one subject on a rented A10G, 2022", "15 to 20 minutes", "not reported", "https://github.com/AUTOMATIC1111/stable-diffusion-webui/discussions/1167"),
    Mark("A pack of 50 avatars bought in an app, 2022", "about half an hour", "$3.99, a trial price", "https://www.startribune.com/how-is-everyone-making-those-ai-selfies/600234097"),
)


def sheet(asked: Sequence[Mapping[str, Any]], taken: Sequence[str]) -> list[dict[str, Any]]:
    """The evidence sheet: each heading with the sections of the page (`asked`) that speak to it.

    `taken` are sentences about the works that went in; a heading that nothing speaks to says so.
    """
    rows = []
    for key, (title, meaning) in HEADINGS.items():
        mine = [section for section in asked if section["evidence"] == key]
        facts = list(taken) if key == "taken" else []
        rows.append({"title": title, "meaning": meaning, "facts": facts, "sections": mine,
                     "empty": "" if mine or facts else "Nothing in this report was measured for it."})
    return rows


def consent_sentences(decision: Mapping[str, Any] | None) -> list[str]:
    """What the gate answered (`Decision.as_dict`), in plain words."""
    if not decision:
        return []
    images, blocked = int(decision["images"]), int(decision["blocked"])
    asked = f"The consent records were asked about {images} works, for the use {decision['use']}, on {decision['at']}."
    if not blocked:
        return [asked, "All of them are allowed."]
    return [asked, f"{blocked} of them are not allowed.", *(f"{reason}." for reason in decision.get("reasons", ()))]
