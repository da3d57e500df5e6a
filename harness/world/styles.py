"""What each drawn style says about a portrait: one explicit table per style, one vocabulary for all.

A reading maps a component's variant to a value of the vocabulary. What a table does not list is `unknown`: nothing is
guessed from a picture, and nothing at all is said about gender or age.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping

ATTRIBUTES = ("skin", "hair_colour", "hair_length", "glasses", "facial_hair", "covering", "expression", "clothing")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Reading:
    """How one component of a style is read for one attribute."""

    component: str
    """name of the component in the style's definition"""
    values: Mapping[str, str]
    """variant -> value; a key that ends in * is a prefix"""
    otherwise: str = UNKNOWN
    """value of a variant that is not listed"""
    absent: str = UNKNOWN
    """value when the component is not drawn"""

    def read(self, variant: str | None) -> str:
        """The value for a variant, or for its absence (None)."""
        if variant is None:
            return self.absent
        if variant in self.values:
            return self.values[variant]
        return next((v for k, v in self.values.items() if k.endswith("*") and variant.startswith(k[:-1])), self.otherwise)


@dataclass(frozen=True)
class StyleTable:
    """Everything the world needs to know about one drawn style."""

    skin: str | None = None
    """name of the colour slot that is skin"""
    hair: str | None = None
    """name of the colour slot that is hair"""
    readings: Mapping[str, tuple[Reading, ...]] = field(default_factory=dict)
    """attribute -> readings; the first that says something else than "none" or unknown wins"""
    fixed: Mapping[str, str] = field(default_factory=dict)
    """attributes that this style never draws, as their constant value"""
    leave_out: frozenset[str] = frozenset()
    """"component/variant" pairs that are never drawn"""
    presence: Mapping[str, float] = field(default_factory=dict)
    """component -> probability of being drawn, where the style's own is unsuitable for a balanced world"""
    weights: Mapping[str, float] = field(default_factory=dict)
    """"component/variant" -> weight against 1 for every other variant of the component"""
    lasting: frozenset[str] = frozenset()
    """components (and colour slots, as "#name") that are a person's identity here although they change in other styles"""


def _same(names: str, value: str) -> dict[str, str]:
    return {name: value for name in names.split()}


_LONG_SHORT = {"long*": "long", "short*": "short"}
_NO_GLASSES = {"glasses": "none"}

STYLES: dict[str, StyleTable] = {
    "adventurer": StyleTable(
        "skin", "hair",
        {"hair_length": (Reading("hair", _LONG_SHORT),),
         "glasses": (Reading("glasses", {"variant01": "sunglasses"}, "glasses", "none"),),
         "facial_hair": (Reading("details", {"mustache": "moustache"}, "none", "none"),)},
        presence={"glasses": 0.4, "details": 0.5}, weights={"details/mustache": 5.0}),
    "big-ears": StyleTable("skin", "hair", {"hair_length": (Reading("hair", _LONG_SHORT),)}),
    "big-smile": StyleTable(
        "skin", "hair",
        {"hair_length": (Reading("hair", _same("shavedHead mohawk shortHair curlyShortHair halfShavedHead bowlCutHair", "short")
                                 | _same("straightHair braids", "long")),),
         "glasses": (Reading("accessories", {"glasses": "glasses", "sunglasses": "sunglasses"}, "none", "none"),),
         "facial_hair": (Reading("accessories", {"mustache": "moustache"}, "none", "none"),),
         "expression": (Reading("mouth", _same("openedSmile teethSmile gapSmile awkwardSmile kawaii braces", "smiling")
                                | {"openSad": "sad", "unimpressed": "serious"}),)},
        leave_out=frozenset({"accessories/faceMask", "accessories/sleepMask", "accessories/clownNose"}),
        presence={"accessories": 0.75}, weights={"accessories/mustache": 2.5, "accessories/glasses": 2.0}),
    "croodles": StyleTable(
        None, "top",
        {"hair_length": (Reading("top", _same("variant12 variant13 variant14 variant16 variant17", "long")
                                 | _same("variant02 variant03 variant05 variant06 variant08 variant09 variant19", "short")
                                 | {"variant28": "bald"}),),
         "covering": (Reading("top", _same("variant20 variant21 variant22 variant24 variant25", "hat")),),
         "glasses": (Reading("eyes", {"variant09": "sunglasses"} | _same("variant13 variant14 variant15", "glasses"), "none"),),
         "facial_hair": (Reading("beard", {}, "beard", "none"), Reading("mustache", {}, "moustache", "none"))},
        presence={"beard": 0.3, "mustache": 0.25},
        weights={f"eyes/variant{n}": 2.4 for n in ("09", "13", "14", "15")}),
    "dylan": StyleTable(
        "skin", "hair",
        {"hair_length": (Reading("hair", _same("longCurls wavy roundBob", "long") | _same("plain spiky flatTop shortCurls", "short")),),
         "facial_hair": (Reading("facialHair", {"default": "beard"}, absent="none"),),
         "expression": (Reading("mood", _same("happy superHappy hopeful", "smiling") | {"sad": "sad", "angry": "angry",
                                                                                        "neutral": "serious"}),)},
        fixed=_NO_GLASSES, presence={"facialHair": 0.45}),
    "micah": StyleTable(
        "base", "hair",
        {"hair_length": (Reading("hair", {"full": "long", "mrClean": "bald"} | _same("fonze dannyPhantom dougFunny mrT", "short")),),
         "covering": (Reading("hair", {"turban": "turban"}, "none", "none"),),
         "glasses": (Reading("glasses", {}, "glasses", "none"),),
         "facial_hair": (Reading("facialHair", {"beard": "beard", "scruff": "stubble"}, absent="none"),),
         "expression": (Reading("mouth", _same("laughing smile smirk", "smiling") | _same("frown sad", "sad")
                                | {"surprised": "surprised"}),),
         "clothing": (Reading("clothes", {"collared": "a collared shirt", "crew": "a T-shirt", "open": "an open shirt"}),)},
        presence={"glasses": 0.4, "facialHair": 0.4}),
    "miniavs": StyleTable(
        "skin", "hair",
        {"hair_length": (Reading("hair", {"balndess": "bald"} | _same("classic01 classic02 curly elvis stylish", "short")
                                 | _same("long ponyTail", "long")),),
         "glasses": (Reading("glasses", {}, "glasses", "none"),),
         "facial_hair": (Reading("mustache", {"pencilThinBeard": "beard"}, "moustache", "none"),),
         "clothing": (Reading("body", {"golf": "a polo shirt", "tShirt": "a T-shirt"}),)},
        presence={"glasses": 0.4, "mustache": 0.45}, weights={"mustache/pencilThinBeard": 2.0}),
    "personas": StyleTable(
        "skin", "hair",
        {"hair_length": (Reading("hair", _same("long extraLong bobCut bobBangs sideShave", "long") | {"bald": "bald"}
                                 | _same("buzzcut fade shortCombover shortComboverChops mohawk", "short")),),
         "covering": (Reading("hair", {"beanie": "beanie", "cap": "cap"}, "none"),),
         "glasses": (Reading("eyes", {"glasses": "glasses", "sunglasses": "sunglasses"}, "none"),),
         "facial_hair": (Reading("facialHair", {"walrus": "moustache", "shadow": "stubble"}, "beard", "none"),),
         "expression": (Reading("mouth", _same("bigSmile smile smirk", "smiling") | {"frown": "sad", "surprise": "surprised"}),),
         "clothing": (Reading("clothes", {"checkered": "a checkered shirt"}),)},
        # A pacifier would suggest an infant: the world draws no minors.
        leave_out=frozenset({"mouth/pacifier"}), presence={"facialHair": 0.4}, weights={"eyes/glasses": 2.0}),
    "toon-head": StyleTable(
        "skin", "hair",
        {"hair_length": (Reading("rearHair", _same("longStraight longWavy shoulderHigh", "long"), absent="short"),),
         "facial_hair": (Reading("beard", {"moustacheTwirl": "moustache"}, "beard", "none"),),
         "expression": (Reading("mouth", _same("smile laugh", "smiling") | {"sad": "sad", "angry": "angry", "agape": "surprised"}),),
         "clothing": (Reading("clothes", {"dress": "a dress", "openJacket": "a jacket", "shirt": "a shirt", "tShirt": "a T-shirt",
                                          "turtleNeck": "a turtleneck"}),)},
        fixed=_NO_GLASSES, presence={"beard": 0.4, "rearHair": 0.5}),
    "open-peeps": StyleTable(
        "skin", "headContrast",
        {"glasses": (Reading("accessories", {"sunglasses*": "sunglasses", "glasses*": "glasses"}, "none", "none"),),
         "facial_hair": (Reading("facialHair", {"moustache*": "moustache"}, "beard", "none"),),
         "covering": (Reading("head", {"hatBeanie": "beanie", "hatHip": "hat", "turban": "turban", "hijab": "headscarf"}, "none"),),
         "hair_length": (Reading("head", {"long*": "long", "short*": "short", "shaved*": "short", "noHair*": "bald"}),),
         "expression": (Reading("expression", {"smile*": "smiling", "serious": "serious", "solemn": "serious", "rage": "angry",
                                               "veryAngry": "angry", "fear": "surprised", "awe": "surprised"}),)},
        leave_out=frozenset({"expression/monster", "expression/cyclops", "head/bear"}),
        presence={"accessories": 0.4, "facialHair": 0.35, "mask": 0.0}),
    "notionists": StyleTable(
        None, None,
        {"glasses": (Reading("glasses", {}, "glasses", "none"),), "facial_hair": (Reading("beard", {}, "beard", "none"),)},
        presence={"glasses": 0.4, "beard": 0.3, "gesture": 0.0}),
    "pixel-art": StyleTable(
        "skin", "hair",
        {"hair_length": (Reading("hair", _LONG_SHORT),),
         "glasses": (Reading("glasses", {"dark*": "sunglasses"}, "glasses", "none"),),
         "facial_hair": (Reading("beard", {}, "beard", "none"),), "covering": (Reading("hat", {}, "hat", "none"),),
         "expression": (Reading("mouth", {"happy*": "smiling", "sad*": "sad"}),)},
        presence={"glasses": 0.4, "beard": 0.3}),
    "voxel-art": StyleTable(
        "skin", "hair",
        {"glasses": (Reading("glasses", {"shades": "sunglasses"}, "glasses", "none"),),
         "facial_hair": (Reading("beard", {"mustache": "moustache", "stubble": "stubble"}, "beard", "none"),),
         "covering": (Reading("top", {"cap": "cap", "beanie": "beanie"}, "none", "none"),),
         "expression": (Reading("mouth", _same("smile bigSmile laugh wideSmile grin", "smiling") | {"frown": "sad"}),)},
        presence={"glasses": 0.4, "beard": 0.3}),
    # Faces with hardly any other parts: without their eyes and colours these styles would know a handful of people.
    "fun-emoji": StyleTable(lasting=frozenset({"eyes", "#background"})),
    "moods": StyleTable(lasting=frozenset({"eyes"})),
    "thumbs": StyleTable(lasting=frozenset({"eyes", "#eyes", "#mouth", "#background"})),
}

# Components that change from one portrait of a person to the next; everything else is the person's identity.
CHANGING = frozenset({"mouth", "eyes", "eyebrows", "brows", "expression", "mood", "clothes", "clothing", "clothesGraphic", "outfit",
                      "blush", "gesture", "body", "background", "animation"})


def table(style: str) -> StyleTable:
    """The table of a drawn style; a style without one says nothing, so all its attributes are `unknown`."""
    return STYLES.get(style, StyleTable())


def changing(style: str) -> frozenset[str]:
    """Components of a style that change from one portrait of a person to the next."""
    return CHANGING - table(style).lasting
