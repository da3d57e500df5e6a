"""A small sealed report for the tests: page, numbers, tables with prompts, pictures in folders, a model, a consent ledger."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from harness import report
from harness.consent import keys
from harness.images import sha256
from harness.report import Figure
from harness.stats import Finding

PROMPTS = ("a lighthouse keeper in the rain", "two dancers, seen from above", "an orchard; \"late\" light")
STYLE = Finding("style", "artist-31", 0.062, 0.048, 0.077, 0.95, 96, 24, 0.004, None, 0.05, "none: no test", "drawn portraits",
                "not calibrated", 0, "Larger than 19 of 19 controls.")
COPIES = Finding("copies", "artist-31", 0.0, 0.0, 0.0099, 0.95, 300, 30, 0.01, None, 1.0, "none: no test", "drawn portraits",
                 "not calibrated", 0, "None is nearer.")
CHANGES = [Finding("representation", f"skin: {name}", 0.17, 0.08, 0.27, 0.95, 88, 24, 0.0, None, 0.004, "none: no test", "drawn portraits",
                   "not calibrated", 8, "p = 0.004") for name in ("light", "medium", "dark")]
STORY = {
    "title": "The case of artist-31", "purpose": "audit", "lead": "What an audit could show.", "made": "32 works, 200 steps.", "limits": ["Only drawings."],
    "methods": ["The works were sorted.", "The model was tuned."], "settings": {"steps": 200, "guidance scale": 2.5}, "compute": {"pictures drawn": 6},
    "consent": {"allowed": False, "purpose": "audit", "use": "cawg.ai_generative_training", "at": "2026-01-31", "images": 32, "blocked": 32,
                "reasons": ["artist-31: 32 works notAllowed (consent.csv line 2)"]},
    "data": [{"name": "pseudo-artists", "use": "training", "works": 32, "licence": "CC BY 4.0", "basis": "a free licence", "sha256": "ab" * 32}],
    "models": [{"name": "miniature", "use": "drawing", "licence": "Apache-2.0", "sha256": "cd" * 32}], "cost": {"time": "95 s", "money": "$0.00"},
    "credits": [{"name": "A Maker", "work": "A Style", "licence": "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)",
                 "source": "https://example.org/a-rather-long-address-that-has-to-break-somewhere-on-a-narrow-page", "note": "Changes: drawn small."}]}


def picture(seed: int, size: tuple[int, int] = (24, 24)) -> bytes:
    """A PNG that no other seed gives."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def files(folder: Path) -> None:
    """What a run leaves before its report."""
    rows = ["file,sha256,prompt,seed"]
    for i in range(6):
        name, data = f"tuned/{i:05d}.png", picture(i)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        prompt = PROMPTS[i // 2].replace('"', '""')
        rows.append(f'{name},{sha256(data)},"{prompt}",{i % 2}')
    (folder / "samples.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "rows.csv").write_text(f"question,subject,prompt,seed,value\nstyle,artist-31,\"{PROMPTS[1]}\",0,0.25\n", encoding="utf-8")
    (folder / "works.csv").write_text(f"sha256,subject,role\n{'ef' * 32},artist-31,training\n", encoding="utf-8")
    (folder / "consent.csv").write_text("subject,contact\nartist-31,A Person\n", encoding="utf-8")
    (folder / "adapter").mkdir(exist_ok=True)
    (folder / "adapter" / "weights.safetensors").write_bytes(bytes(range(256)))


def make(folder: Path, key: keys.Key | None = None) -> Path:
    """A sealed report in a folder; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files(folder)
    figures = [Figure(picture(90, (96, 40)), "Before and after.", "Two columns of pictures"),
               Figure(picture(91, (96, 40)), "Models tuned on others.", "A dot for each model", "style")]
    report.write([STYLE, COPIES, *CHANGES], STORY, figures, folder, key)
    (folder / "adapter" / "times.json").write_text('{"started": "2026-01-31T12:00:00+00:00"}', encoding="utf-8")
    (folder / "manifest.json").write_text('{"status": "complete"}', encoding="utf-8")
    return folder
