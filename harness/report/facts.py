"""What a run's manifest adds to the story of its report: settings, consent, data, models, machine. Nothing with a clock in it.

Times, forecasts and costs stay in the manifest: they differ from one repetition to the next, and the report must not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from harness.errors import HarnessError

MODELS = {"model": "drawing", "clip": "comparing pictures"}
"""Keys of the manifest's note "models", each with `<key>_sha256` beside it."""


def from_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of a story (`report.STORY`) from the manifest of a run: settings, consent, data, models, compute.

    Paths are told by their last part. Raises HarnessError for what is no manifest of a run.
    """
    try:
        notes, resolved = manifest["notes"], manifest["parameters"]["resolved"]
        hardware, identity = manifest["hardware"], manifest["identity"]
    except (KeyError, TypeError) as error:
        raise HarnessError(f"not the manifest of a run: {error} is missing; pass `run.manifest`.") from error
    parts = {"settings": {name: _told(value) for name, value in resolved.items()}, "data": [_data(row) for row in manifest.get("inputs") or ()],
             "models": _models(notes.get("models") or {}), "compute": _compute(manifest, hardware, identity)}
    return parts | ({"consent": notes["consent"]} if notes.get("consent") else {})


def _told(value: Any) -> Any:
    """A parameter's value; a path by its last part, because the rest is about somebody's machine."""
    if isinstance(value, (list, tuple)):
        return ", ".join(str(_told(each)) for each in value)
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value


def _data(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": row.get("card") or _told(row["name"]), "use": row.get("parameter"), "licence": row.get("licence"), "sha256": row.get("sha256")}


def _models(noted: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": _told(noted[key]), "use": use, "sha256": noted.get(f"{key}_sha256")} for key, use in MODELS.items() if noted.get(key)]


def _compute(manifest: Mapping[str, Any], hardware: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    """The machine and the versions that can change a pixel; operations, where they were counted beforehand."""
    gpus = ", ".join(str(gpu.get("name", "")) for gpu in hardware.get("gpus") or ()) or "none"
    flops = (manifest.get("predicted") or {}).get("flops")
    versions = ", ".join(f"{name} {version}" for name, version in (identity.get("packages") or {}).items())
    return {"processor cores": hardware.get("cores"), "GPU": gpus, "code": str((manifest.get("git") or {}).get("commit") or "not in git")[:12],
            **({"floating-point operations, counted beforehand": f"{flops:.3g}"} if flops else {}), "versions": versions}
