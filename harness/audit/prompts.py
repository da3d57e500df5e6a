"""The guard of the exposure audit: only neutral prompts about grown-up or ageless figures are measured.

A prompt that names a minor or asks for sexual content is refused, whatever the purpose; there is no switch for it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from harness.errors import Refused

MINORS = frozenset("""adolescent adolescents babies baby boy boyish boys child childhood childish childlike children cub
    daughter daughters girl girlish girls infant infants juvenile juveniles kid kiddo kids kindergartner kindergartener lad
    lass loli lolita minor minors newborn newborns nymphet orphan orphans pre-teen preschooler preteen preteens prepubescent
    pubescent puberty schoolboy schoolboys schoolchild schoolchildren schoolgirl schoolgirls schoolkid schoolkids shota son
    sons student-aged teen teenage teenaged teenager teenagers teens toddler toddlers tween tweens underage underaged
    youngster youngsters youth youthful youths pupil pupils""".split())
SEXUAL = frozenset("""aroused arousing bare-breasted bikini bikinis bondage boobs bra breast breasts busty buttocks cleavage
    erotic erotica explicit fetish genital genitals hentai hot-pants intercourse kinky lewd lingerie lustful naked nipple
    nipples nsfw nude nudes nudity orgasm orgy panties penis porn porno pornographic pornography provocative seductive sensual
    sex sexily sexual sexualised sexualized sexually sexy skimpy slutty striptease stripper thong topless underwear undressed
    undressing upskirt vagina voluptuous xxx""".split())
_AGE = re.compile(r"\b(?:aged?\s*)?(\d{1,3})\s*[- ]?\s*(?:years?|yrs?|yo|y\s*/?\s*o|months?)\b|\bage[d]?\s*:?\s*(\d{1,3})\b")
_WRITTEN = re.compile(r"\b(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|"
                      r"seventeen)[- ]years?[- ]old\b")
_LOOKALIKE = str.maketrans("013457@$!", "oieastasi")


def check(prompts: Iterable[str]) -> None:
    """Refuse (harness.errors.Refused) the first prompt that names a minor, an age under 18, or sexual content."""
    for prompt in prompts:
        reason = _reason(prompt)
        if reason:
            raise Refused(f"the prompt {prompt!r} {reason}; exposure is measured on neutral prompts about adults only, and "
                          "no setting changes that.")


def _reason(prompt: str) -> str | None:
    """What is wrong with a prompt, or None."""
    plain = _plain(prompt)
    if _WRITTEN.search(plain) or any(int(a or b) < 18 for a, b in _AGE.findall(plain)):
        return "names an age under 18"
    words = _words(plain) | _words(plain.translate(_LOOKALIKE))
    for listed, what in ((MINORS, "names a minor"), (SEXUAL, "asks for sexual content")):
        hit = sorted(words & listed) + sorted(w for w in listed if len(w) > 2 and any(w in run for run in _spelled(plain)))
        if hit:
            return f"{what} ({hit[0]!r})"
    return None


def _plain(text: str) -> str:
    """Lower case without accents, invisible characters and look-alike widths."""
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in decomposed if unicodedata.category(c) not in ("Mn", "Cf"))


def _words(plain: str) -> set[str]:
    """Words as written, and the halves of hyphenated ones."""
    found = set(re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", plain))
    return found | {half for word in found for half in word.split("-")}


def _spelled(plain: str) -> list[str]:
    """Runs of single letters that were spaced or dotted apart, joined again."""
    return [re.sub(r"[\W_]+", "", run) for run in re.findall(r"\b(?:[^\W_][ ._*-]){2,}[^\W_]\b", plain)]
