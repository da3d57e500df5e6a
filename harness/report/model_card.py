"""A model card for an adapter: README.md with the front matter that the Hugging Face hub reads, and the consent decision in it.

The fields are those of the hub's model card metadata (https://huggingface.co/docs/hub/model-cards); `consent` is our own, and
says under which decision the adapter was trained, so that whoever finds the file finds that too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.images import atomic_write

if TYPE_CHECKING:
    from harness.finetune.adapter import Adapter

NAME = "README.md"
SHOWN = ("recipe", "resolution", "crop", "mixed_precision", "device")
"""What of the training manifest stands among the settings, besides its own settings."""
MARKED = "This adapter was made for an audit, without the consent of everyone whose works it was trained on. It must not be published, passed on or used for anything else."


def write(adapter: Adapter, folder: Path, licence: str, base_model: str, title: str, summary: str = "", limits: Sequence[str] = (),
          credits: Sequence[Mapping[str, str]] = (), pseudonyms: bool = True) -> Path:
    """Write README.md into a folder, from the adapter's training manifest; returns it.

    `licence` is an SPDX identifier in small letters as the hub writes them (cc-by-4.0), `base_model` the hub id or address of
    what it was tuned from. With `pseudonyms=False` artists are counted and not named. Raises HarnessError for a manifest
    without a consent decision and for empty fields.
    """
    empty = [name for name, value in {"licence": licence, "base_model": base_model, "title": title}.items() if not value.strip()]
    if empty:
        raise HarnessError(f"model card: {', '.join(empty)} is empty; a card without it says less than none.")
    if not adapter.manifest.get("consent"):
        raise HarnessError(f"{adapter.path}: its manifest holds no consent decision; train it again with this version.")
    front, made = _front(adapter.manifest, licence, base_model), adapter.manifest
    parts = [f"# {_plain(title)}", _banner(made["consent"]), summary, _use(adapter.path.name), _training(made), _consent(made, pseudonyms),
             _list("What it does not show or do", limits), _list("Credits", [_credit(c) for c in credits])]
    return atomic_write(Path(folder) / NAME, f"---\n{_yaml(front)}---\n\n" + "\n\n".join(part for part in parts if part) + "\n")


def _front(manifest: Mapping[str, Any], licence: str, base_model: str) -> dict[str, Any]:
    """The front matter: what the hub knows, and the consent decision."""
    consent = manifest["consent"]
    tags = ["text-to-image", "diffusers", str(manifest["recipe"])] + ([] if consent["exportable"] else ["made-for-an-audit", "not-for-publication"])
    kept = ("purpose", "use", "allowed", "exportable", "images", "blocked", "at", "ledger_sha256")
    return {"license": licence, "base_model": base_model, "library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": tags,
            "base_model_sha256": manifest["base_model_sha256"], "consent": {key: consent[key] for key in kept}}


def _yaml(front: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, width=110)


def _banner(consent: Mapping[str, Any]) -> str:
    return "" if consent["exportable"] else f"> **Not for publication.** {MARKED}"


def _use(weights: str) -> str:
    """How plain diffusers loads it; the hub shows this first."""
    return f'```python\npipe.load_lora_weights("FOLDER", weight_name="{weights}")\n```'


def _training(manifest: Mapping[str, Any]) -> str:
    settings = {**manifest.get("settings", {}), **{name: manifest[name] for name in SHOWN if name in manifest}}  # "auto" as it was resolved
    rows = [f"| {name.replace('_', ' ')} | {_plain(value)} |" for name, value in settings.items() if value is not None]
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    return "\n".join(["## Training", "", "| setting | value |", "|---|---|", *rows]) + (f"\n\nVersions: {versions}." if versions else "")


def _consent(manifest: Mapping[str, Any], pseudonyms: bool) -> str:
    """The decision in plain words, with what it rests on."""
    consent, works = manifest["consent"], Counter(str(row.get("artist", "")) for row in manifest.get("images", ()))
    whose = ", ".join(f"{_plain(who) or 'no artist named'} ({n})" for who, n in sorted(works.items())) if pseudonyms else f"{len(works)} artists"
    said = "all of them are allowed" if consent["allowed"] else f"{consent['blocked']} of them are not allowed"
    lines = ["## Data and consent", "", f"Trained on {sum(works.values())} works: {whose}. Every work stands by its SHA-256 in the metadata of the weights.", "",
             f"The consent records (SHA-256 `{consent['ledger_sha256']}`) were asked on {consent['at']} for the use `{consent['use']}`, purpose "
             f"`{consent['purpose']}`: {said}."]
    return "\n".join([*lines, *([""] if consent["reasons"] and pseudonyms else []), *(f"- {_plain(r)}" for r in consent["reasons"] if pseudonyms)])


def _list(title: str, items: Sequence[str]) -> str:
    return "\n".join([f"## {title}", "", *(f"- {item}" for item in items)]) if items else ""


def _credit(credit: Mapping[str, str]) -> str:
    parts = [_plain(credit.get(name, "")) for name in ("name", "work", "licence", "source", "note")]
    return ", ".join(part for part in parts if part)


def _plain(value: Any) -> str:
    """A value as text that cannot break a table or a heading."""
    return " ".join(str(value).replace("|", "\\|").replace("<", "&lt;").split())
