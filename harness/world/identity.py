"""Two judges for fine-tunes of the miniature: is this the same person, and is this the same hand?

Each is a small network that maps a portrait to a unit vector of 64 numbers; two pictures are compared by their cosine. The judge of
identity learns from people of the split `judge`, sixteen of one style at a time, so that what tells two people of a style apart is
all that it can use. The judge of style learns from the base artists, from drawn styles that the world does not use, and from parametric
hands of its own; none of these is an artist whom it will be asked about. Some of what both see has been through the miniature's autoencoder, for that is how a model's drawings look. Neither is
the audit's CLIP, and neither takes part in an audit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, Sequence

from harness.world.artists import HAND_STYLES, HANDS, Artist, base_artists, definition
from harness.world.people import Portrait
from harness.world.training import Schedule, device, fit

if TYPE_CHECKING:
    import numpy as np
    import torch

SCHEDULE = Schedule(steps=800, batch=64, learning_rate=1.5e-3, warmup=100, weight_decay=0.05, ema=0.995)
STYLE_STEPS = 500
"""steps of the judge of style: with 1,600 it knew its own artists by heart and others less well"""
KINDS = ("identity", "style")
WIDTHS = (24, 48, 96, 128)
DIM = 64
"""length of a vector"""
EACH = 4
"""pictures of each person, or of each artist, in a batch"""
TEMPERATURE = 0.1
OWN_HANDS = 160
"""parametric hands that only the judge of style learns from"""
FIRST_OWN = 1000
"""number of the first of them; the world's own are 0 to HANDS - 1"""
OWN_WORKS = 24
"""works of each"""
OWN_STYLES = ("adventurer-neutral", "big-ears-neutral", "blobs", "constellation", "croodles-neutral", "disco", "gaze", "glass", "identicon", "initial-face",
              "initials", "landscape", "line-face", "loops", "lorelei", "lorelei-neutral", "marbles", "patchwork", "planets", "rings", "shadows", "shape-grid",
              "shapes", "slice", "squircles", "stack", "stripes", "triangles", "waves", "weave")
"""drawn styles that only the judge of style learns from: by makers of base styles, or CC0; none is a variant of an unseen artist's style"""
HAND = "judge-hand-"
"""how the names of its own hands begin"""
THROUGH = 6
"""every which picture is also shown as the autoencoder gives it back"""


@dataclass(frozen=True, eq=False)
class Lessons:
    """Pictures that belong together by their label."""

    images: torch.Tensor
    """uint8 (2, n, 3, 64, 64): as drawn, and as `decode` gives them"""
    groups: Sequence[Sequence[torch.Tensor]]
    """for each kind of batch the labels that it may hold, each as the indices of its pictures; negatives come from one such group"""

    def draw(self, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch: float (size, 3, 64, 64) of one group, EACH pictures of a label where it has so many, and the labels (size,)."""
        import torch

        group = self.groups[int(torch.randint(len(self.groups), (), generator=generator))]
        picked = torch.randperm(len(group), generator=generator)[: size // EACH].tolist()
        index = [group[label][torch.randperm(len(group[label]), generator=generator)[:EACH]] for label in picked]
        labels = torch.cat([torch.full((len(part),), label) for part, label in zip(index, picked, strict=True)])
        rows = torch.cat(index)
        decoded = torch.randint(2, rows.shape, generator=generator)
        return _augment(self.images[decoded, rows], generator), labels


def network(kind: str) -> Any:
    """An untrained judge: four strided convolution stages and a vector of DIM numbers.

    For identity it reads the last stage's map (what is where); for style each stage's mean and deviation over the picture (what it
    is made of), after Huang and Belongie 2017, "Arbitrary style transfer in real-time", section 3.
    """
    import torch.nn as nn

    stages = []
    for before, width in zip((3, *WIDTHS), WIDTHS):
        layers = [nn.Conv2d(before, width, 4, stride=2, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
        if before > 3:  # a second convolution at the first stage would cost as much as all others
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
        stages.append(nn.Sequential(*layers))
    wide = WIDTHS[-1] * 16 if kind == "identity" else 2 * sum(WIDTHS)
    return nn.ModuleDict({"stages": nn.ModuleList(stages), "head": nn.Linear(wide, DIM)})


def vectors(model: Any, kind: str, x: torch.Tensor) -> torch.Tensor:
    """Unit vectors float32 (n, DIM) of pictures (n, 3, 64, 64) in -1 … 1."""
    import torch

    seen = []
    for stage in model["stages"]:
        x = stage(x)
        seen += [x.mean((2, 3)), x.std((2, 3))]
    return torch.nn.functional.normalize(model["head"](x.flatten(1) if kind == "identity" else torch.cat(seen, 1)).float(), dim=1)


def contrast(found: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The supervised contrastive loss (Khosla et al. 2020, equation 2) of unit vectors (n, d) and their labels (n,)."""
    import torch

    own = torch.eye(len(found), dtype=torch.bool, device=found.device)
    same = (labels[:, None] == labels[None]) & ~own
    likely = torch.log_softmax((found @ found.T / TEMPERATURE).masked_fill(own, -1e4), dim=1)
    return -((likely * same).sum(1) / same.sum(1).clamp(min=1))[same.any(1)].mean()


def people_lessons(images: torch.Tensor, decoded: torch.Tensor, table: Any) -> Lessons:
    """What the judge of identity learns from: one group a style, in it the people, in each their portraits. uint8 (n, 3, 64, 64) each."""
    import torch

    grouped = table.reset_index(drop=True).groupby("artist", sort=True)
    groups = [[torch.as_tensor(list(rows)) for rows in part.groupby("person", sort=True).groups.values() if len(rows) > 1] for _, part in grouped]
    return Lessons(torch.stack([images, decoded]), groups)


def style_lessons(images: torch.Tensor, decoded: torch.Tensor, artists: Sequence[str]) -> Lessons:
    """What the judge of style learns from: drawn artists and parametric hands, one group each, in it their works. uint8 (n, 3, 64, 64) each."""
    import torch

    known = {name: torch.as_tensor([i for i, each in enumerate(artists) if each == name]) for name in dict.fromkeys(artists)}
    hands = [rows for name, rows in known.items() if name.startswith(HAND)]
    return Lessons(torch.stack([images, decoded]), [[rows for name, rows in known.items() if not name.startswith(HAND)], hands])


def own_hands() -> list[Artist]:
    """The artists that the judge of style has to itself: hands with numbers that no artist of the world has."""
    assert FIRST_OWN >= HANDS
    return [Artist(f"{HAND}{i}", HAND_STYLES[i % len(HAND_STYLES)], "hand", FIRST_OWN + i) for i in range(OWN_HANDS)]


def own_works(progress: Callable[[dict], None]) -> tuple[torch.Tensor, list[str]]:
    """Works of its own hands, over people of the split `judge`, and of its own styles: uint8 (n, 3, 64, 64), and whose each is."""
    import numpy as np
    import torch

    from harness.world.render import draw, portraits

    pictures, names = [], []
    for i, artist in enumerate(own_hands(), 1):
        pictures += [np.asarray(draw(artist, portrait)) for portrait in portraits(artist, "judge", OWN_WORKS, seed=i, each=1)]
        names += [artist.name] * OWN_WORKS
        progress({"stage": "hands", "step": i, "of": OWN_HANDS})
    for style in OWN_STYLES:
        pictures += [np.asarray(each) for each in _drawn(style)]
        names += [style] * OWN_WORKS
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), names


def _drawn(style: str) -> Iterator[Any]:
    """Works of a drawn style that the world has no table for, as PIL images."""
    from dicebear import Avatar, Style

    drawn = Style(definition(style))
    for i in range(OWN_WORKS):
        yield Portrait(str(Avatar(drawn, {"seed": f"judge/{i}"})), style, i, {}).image()


def decode(vae: Any, images: torch.Tensor) -> torch.Tensor:
    """Pictures uint8 (n, 3, 64, 64), every THROUGH-th of them through an autoencoder and back."""
    import torch

    found = images.clone()
    with torch.no_grad():
        for rows in torch.arange(0, len(images), THROUGH).split(100):
            latent = vae.encode((images[rows].float() / 127.5 - 1).to(vae.device, vae.dtype)).latent_dist.mean
            found[rows] = ((vae.decode(latent).sample.float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return found


def build(folder: Path, images: torch.Tensor, table: Any, vae: Any, progress: Callable[[dict], None], how: Schedule = SCHEDULE) -> tuple[Any, list[dict[str, float]]]:
    """Train both judges, one after the other, on uint8 images (n, 3, 64, 64) of the split `judge` and their table; (judges, curve of both).

    Saves `folder/identity.safetensors` (half precision). A killed training goes on from its checkpoint. The shipped judge of identity
    comes from an earlier form of this loop, in which both learned together for 1,200 steps.
    """
    import torch

    others, names = own_works(progress)
    decoded, every = decode(vae, images), base_rows(table)
    lessons = {"identity": people_lessons(images, decoded, table),
               "style": style_lessons(torch.cat([images[every], others]), torch.cat([decoded[every], decode(vae, others)]), [*table.artist.iloc[every], *names])}
    schedules = {"identity": how, "style": replace(how, steps=STYLE_STEPS if how == SCHEDULE else how.steps)}
    parts = {kind: learn(kind, lessons[kind], schedules[kind], folder / kind, progress) for kind in KINDS}
    model = torch.nn.ModuleDict({kind: part for kind, (part, _) in parts.items()})
    save(folder / "identity.safetensors", model)
    return model.eval(), [row | {"judge": kind} for kind, (_, curve) in parts.items() for row in curve]


def learn(kind: str, lessons: Lessons, how: Schedule, folder: Path, progress: Callable[[dict], None]) -> tuple[Any, list[dict[str, float]]]:
    """Train one judge; (network, curve)."""
    import torch

    torch.manual_seed(how.seed)
    model = network(kind).to(device())

    def loss(generator: torch.Generator, step: int) -> torch.Tensor:
        x, labels = lessons.draw(how.batch, generator)
        return contrast(vectors(model, kind, x), labels.to(device()))

    return model, fit(model, loss, how, folder, progress, kind)


def base_rows(table: Any) -> list[int]:
    """Rows of the base artists that the judge of style learns from: as many of each as of a hand of its own, all of different people."""
    first = table.reset_index(drop=True).drop_duplicates("person")
    return [int(i) for artist in base_artists() for i in first.index[first.artist == artist.name][:OWN_WORKS]]


def save(path: Path, model: Any) -> Path:
    """Write both judges as float16 safetensors."""
    from safetensors.torch import save as packed

    from harness.images import atomic_write

    return atomic_write(path, packed({k: v.detach().half().cpu().contiguous() for k, v in model.state_dict().items()}))


def load(path: Path) -> Any:
    """Both judges from their safetensors file, in float32: a mapping of KINDS."""
    import torch
    from safetensors.torch import load_file

    model = torch.nn.ModuleDict({kind: network(kind) for kind in KINDS})
    model.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return model.eval().to(device())


def read(judges: Mapping[str, Any], kind: str, images: np.ndarray) -> np.ndarray:
    """What a judge sees in uint8 images (n, 64, 64, 3): unit vectors float32 (n, DIM); their products are cosines."""
    import numpy as np
    import torch

    batches = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).split(256)
    with torch.no_grad():
        return np.concatenate([vectors(judges[kind], kind, (b.float() / 127.5 - 1).to(device())).cpu().numpy() for b in batches])


def _augment(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shifts of up to 3 pixels, some blur and slight noise, so that a judge reads what is drawn and not how sharply."""
    import torch
    import torch.nn.functional as F

    x = F.pad(batch.float() / 127.5 - 1, (3, 3, 3, 3), mode="replicate")
    shifts = torch.randint(0, 7, (len(x), 2), generator=generator).tolist()
    x = torch.stack([each[:, dy : dy + 64, dx : dx + 64] for each, (dx, dy) in zip(x, shifts, strict=True)])
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    blur, noise = (torch.rand(len(x), 1, 1, 1, generator=generator) for _ in range(2))
    x = x + 0.6 * blur * (blur > 0.5) * (blurred - x)
    return (x + 0.05 * noise * torch.randn(x.shape, generator=generator)).to(device())
