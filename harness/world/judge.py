"""The judge of the miniature models: a small classifier trained on real portraits that nothing else has seen.

It reads artist, skin bin, glasses and facial hair, and its features carry the kernel distance. It is never the audit's CLIP and
never takes part in an audit. Attributes that a style does not say are left out of its training and of every score.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Mapping

from harness.world.artists import base_artists
from harness.world.training import Schedule, device, fit

if TYPE_CHECKING:
    import numpy as np
    import torch

HEADS: Mapping[str, tuple[str, ...]] = {"artist": tuple(a.name for a in base_artists()), "skin": ("light", "medium", "dark"),
                                        "glasses": ("no", "yes"), "facial_hair": ("no", "yes")}
SCHEDULE = Schedule(steps=3500, batch=64, learning_rate=1.5e-3, warmup=200, weight_decay=0.05, ema=0.995)
FEATURES = 128
WIDTHS = (48, 96, 128, 160)


def label(attribute: str, value: str) -> int:
    """Index of a truth value among the judge's answers, or -1 where the truth is unknown; any glasses are "yes".

    Stubble is left out: at 64 pixels it is a few grey dots, and whether that is facial hair would be a matter of taste.
    """
    if attribute in ("glasses", "facial_hair"):
        value = {"none": "no", "unknown": "unknown", "stubble": "unknown"}.get(value, "yes")
    return HEADS[attribute].index(value) if value in HEADS[attribute] else -1


def labels(table: Any) -> dict[str, "torch.Tensor"]:
    """Truth table to label tensors, head -> int64 (n,), -1 for unknown."""
    import torch

    return {head: torch.tensor([label(head, v) for v in table[head]]) for head in HEADS}


def network() -> Any:
    """The untrained classifier: four strided convolution stages, then features (n, 128)."""
    import torch.nn as nn

    layers: list[Any] = []
    for before, width in zip((3, *WIDTHS), WIDTHS):
        layers += [nn.Conv2d(before, width, 4, stride=2, padding=1), nn.GroupNorm(8, width), nn.SiLU(),
                   nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
    body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(WIDTHS[-1] * 16, FEATURES), nn.SiLU())
    return nn.ModuleDict({"body": body, **{head: nn.Linear(FEATURES, len(names)) for head, names in HEADS.items()}})


def build(folder: Path, images: "torch.Tensor", table: Any, progress: Callable[[dict], None], how: Schedule = SCHEDULE) -> Any:
    """Train on uint8 images (n, 3, 64, 64) of the split `judge` and their truth, save `folder/judge.safetensors`; (model, curve)."""
    import torch
    from safetensors.torch import save

    from harness.images import atomic_write

    torch.manual_seed(how.seed)
    model, truth = network().to(device()), labels(table)

    def loss(generator: "torch.Generator", step: int) -> "torch.Tensor":
        index = torch.randint(len(images), (how.batch,), generator=generator)
        features = model["body"](_augment(images[index], generator))
        return sum(torch.nn.functional.cross_entropy(model[head](features), truth[head][index].to(device()), ignore_index=-1) for head in HEADS)

    curve = fit(model, loss, how, folder, progress, "judge")
    atomic_write(folder / "judge.safetensors", save({k: v.detach().half().cpu().contiguous() for k, v in model.state_dict().items()}))
    return model, curve


def _augment(batch: "torch.Tensor", generator: "torch.Generator") -> "torch.Tensor":
    """Shifts of up to 3 pixels and some blur, so that the judge reads what is drawn and not how sharply."""
    import torch
    import torch.nn.functional as F

    x = batch.float() / 127.5 - 1
    dx, dy = torch.randint(0, 7, (2,), generator=generator).tolist()
    x = F.pad(x, (3, 3, 3, 3), mode="replicate")[:, :, dy : dy + 64, dx : dx + 64]
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = 0.6 * torch.rand(len(x), 1, 1, 1, generator=generator) * (torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5)
    return (x + amount * (blurred - x)).to(device())


def load(path: Path) -> Any:
    """The judge from its safetensors file, in float32."""
    from safetensors.torch import load_file

    model = network()
    model.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return model.eval().to(device())


def read(model: Any, images: "np.ndarray") -> tuple["np.ndarray", dict[str, "np.ndarray"]]:
    """What the judge sees in uint8 images (n, 64, 64, 3): features float32 (n, 128) and answers, head -> index (n,)."""
    import numpy as np
    import torch

    features, answers = [], {head: [] for head in HEADS}
    with torch.no_grad():
        for batch in torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).split(256):
            seen = model["body"]((batch.float() / 127.5 - 1).to(device()))
            features.append(seen.cpu().numpy())
            for head in HEADS:
                answers[head].append(model[head](seen).argmax(1).cpu().numpy())
    return np.concatenate(features), {head: np.concatenate(parts) for head, parts in answers.items()}


def kernel_distance(x: "np.ndarray", y: "np.ndarray") -> float:
    """Unbiased squared maximum mean discrepancy between features (n, d) and (m, d) with the kernel (x·y / d + 1)³.

    Source: Bińkowski et al. 2018, "Demystifying MMD GANs", section 4 (the kernel inception distance); Gretton et al. 2012, lemma 6.
    It can be slightly negative where both sets come from one distribution.
    """
    d, n, m = x.shape[1], len(x), len(y)
    xx, yy, xy = ((a @ b.T / d + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    return float((xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1)) - 2 * xy.mean())
