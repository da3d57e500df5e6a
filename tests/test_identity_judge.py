"""The judges of identity and style: what they learn from, their loss, that they learn, and that the shipped ones tell people and hands apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize

from harness.errors import HarnessError
from harness.progress import silent
from harness.trials import judges as marking
from harness.world import identity
from harness.world.artists import BASE_STYLES, HANDS, UNSEEN_STYLES, artists, base_artists, credit
from harness.world.people import people
from harness.world.training import fit

SMALL = replace(identity.SCHEDULE, steps=40, batch=16, warmup=5, learning_rate=3e-3, ema=0.5, checkpoint_every=20)


class Mirror:
    """An autoencoder that turns pictures upside down, so that one sees what went through it."""

    device, dtype = "cpu", torch.float32

    def encode(self, x: torch.Tensor) -> object:
        return type("Encoded", (), {"latent_dist": type("Posterior", (), {"mean": x.flip(2)})})

    def decode(self, z: torch.Tensor) -> object:
        return type("Decoded", (), {"sample": z})


def portraits(per_person: int = 6, styles: int = 2, persons: int = 6, seed: int = 0) -> tuple[torch.Tensor, pd.DataFrame]:
    """Pictures of made-up people: each a colour and a place of a square, each picture with some noise."""
    rng, images, rows = np.random.default_rng(seed), [], []
    for style in range(styles):
        for person in range(persons):
            colour, (y, x) = rng.integers(0, 256, 3), rng.integers(8, 40, 2)
            for _ in range(per_person):
                picture = rng.integers(90, 160, (64, 64, 3))
                picture[y : y + 16, x : x + 16] = colour
                images.append(picture.astype(np.uint8))
                rows.append({"artist": f"artist-0{style + 1}", "person": f"artist-0{style + 1}/{person}"})
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), pd.DataFrame(rows)


# --- what they learn from ---------------------------------------------------------------------------------------------


def test_a_batch_holds_people_of_one_style_only() -> None:
    images, table = portraits()
    lessons = identity.people_lessons(images, images, table)
    style_of = {int(i): table.artist[int(i)] for group in lessons.groups for label in group for i in label}
    assert len(lessons.groups) == 2 and len(style_of) == len(table)
    for group in lessons.groups:
        assert len({style_of[int(i)] for label in group for i in label}) == 1
        assert all(table.person[label.tolist()].nunique() == 1 for label in group)
    generator = torch.Generator().manual_seed(0)
    x, labels = lessons.draw(16, generator)
    assert x.shape == (16, 3, 64, 64) and -1.5 < float(x.min()) and float(x.max()) < 1.5
    assert sorted(torch.bincount(labels)[labels.unique()].tolist()) == [identity.EACH] * 4


def test_a_person_with_one_portrait_teaches_nothing() -> None:
    images, table = portraits()
    table.loc[0, "person"] = "artist-01/alone"
    groups = identity.people_lessons(images, images, table).groups
    assert 0 not in {int(i) for group in groups for label in group for i in label}


def test_only_some_pictures_go_through_the_autoencoder() -> None:
    images, _ = portraits()
    found = identity.decode(Mirror(), images)
    through = [i for i in range(len(images)) if torch.equal(found[i], images[i].flip(1))]
    assert through == list(range(0, len(images), identity.THROUGH))
    assert all(torch.equal(found[i], images[i]) for i in range(len(images)) if i not in through)


def test_no_hand_of_the_judge_is_an_artist_of_the_world() -> None:
    own = identity.own_hands()
    assert len(own) == identity.OWN_HANDS and not {a.name for a in own} & set(artists())
    assert {a.hand for a in own}.isdisjoint(range(HANDS)) and {a.style for a in own} <= {a.style for a in base_artists()}


def test_no_drawn_style_of_the_judge_is_an_artist_of_the_world_or_a_variant_of_an_unseen_one() -> None:
    assert set(identity.OWN_STYLES).isdisjoint((*BASE_STYLES, *UNSEEN_STYLES))
    assert not [own for own in identity.OWN_STYLES for unseen in UNSEEN_STYLES if own.startswith(unseen)]
    makers = {credit(style).creator for style in BASE_STYLES}
    assert all(credit(own).creator in makers or credit(own).licence.startswith("CC0") for own in identity.OWN_STYLES)


def test_hands_and_drawn_artists_are_never_in_one_batch() -> None:
    images, names = portraits()[0][:8], [f"{identity.HAND}0"] * 2 + ["waves"] * 2 + ["weave"] * 2 + [f"{identity.HAND}1"] * 2
    drawn, hands = identity.style_lessons(images, images, names).groups
    assert [rows.tolist() for rows in drawn] == [[2, 3], [4, 5]] and [rows.tolist() for rows in hands] == [[0, 1], [6, 7]]


def test_the_judge_of_style_sees_each_base_artist_by_different_people() -> None:
    _, table = portraits(persons=40, per_person=3)
    rows = identity.base_rows(table)
    chosen = table.iloc[rows]
    assert list(chosen.artist.value_counts()) == [identity.OWN_WORKS] * 2 and chosen.person.is_unique


def test_people_of_the_judge_are_nobody_elses() -> None:
    for artist in base_artists()[:3]:
        mine = {p.key for p, _ in zip(people(artist, "judge", 0), range(30))}
        for split in ("train", "held-out", "calibration", "hands"):
            assert mine.isdisjoint({p.key for p, _ in zip(people(artist, split, 0), range(30))})


# --- how they learn ---------------------------------------------------------------------------------------------------


def test_the_loss_is_the_papers() -> None:
    """Against equation 2 of Khosla et al. 2020 written out pair by pair."""
    torch.manual_seed(0)
    z, labels = normalize(torch.randn(7, 5), dim=1), torch.tensor([0, 0, 1, 1, 1, 2, 0])
    wanted = []
    for i in range(7):
        others = [j for j in range(7) if j != i]
        same = [j for j in others if labels[j] == labels[i]]
        if same:
            below = sum(torch.exp(z[i] @ z[a] / identity.TEMPERATURE) for a in others)
            wanted.append(-sum(torch.log(torch.exp(z[i] @ z[p] / identity.TEMPERATURE) / below) for p in same) / len(same))
    assert torch.allclose(identity.contrast(z, labels), sum(wanted) / len(wanted), atol=1e-5)


@pytest.mark.parametrize("kind", identity.KINDS)
def test_a_judge_learns_to_tell_apart(kind: str, tmp_path: Path) -> None:
    """Forty steps take a good part of the loss away, and the people that it learned from are told apart."""
    torch.manual_seed(0)
    images, table = portraits()
    lessons = identity.people_lessons(images, images, table)
    model = torch.nn.ModuleDict({kind: identity.network(kind)})
    labels = torch.tensor(pd.factorize(table.person[:36])[0])

    def measured() -> float:
        with torch.no_grad():
            return float(identity.contrast(identity.vectors(model[kind], kind, images[:36].float() / 127.5 - 1), labels))

    before = measured()
    fit(model, lambda g, step: identity.contrast(identity.vectors(model[kind], kind, (d := lessons.draw(16, g))[0]), d[1]), SMALL, tmp_path, silent, kind)
    seen = identity.read(model.eval(), kind, _pixels(images[:36]))
    assert measured() < 0.93 * before and np.mean(marking.apart(seen, seen, list(table.person[:36]))) > 0.9


def _pixels(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({kind: identity.network(kind) for kind in identity.KINDS}).eval()
    path = identity.save(tmp_path / "identity.safetensors", model)
    again, pictures = identity.load(path), _pixels(portraits()[0][:5])
    for kind in identity.KINDS:
        found = identity.read(again, kind, pictures)
        assert found.shape == (5, identity.DIM) and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        assert np.abs(found - identity.read(model, kind, pictures)).max() < 0.01
    assert path.stat().st_size < 6 * 2**20


# --- the figures, and the shipped judges -------------------------------------------------------------------------------


def test_the_area_under_the_curve_by_hand() -> None:
    assert marking.above(np.array([0.9, 0.5]), np.array([0.1, 0.5])) == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    unit = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], dtype=np.float32)
    assert marking.apart(unit, unit, ["a", "a", "b", "b"]) == [1.0, 1.0]
    assert marking.apart(unit, unit, ["a", "b", "a", "b"]) == [0.0, 0.5]


def test_missing_judges_are_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="harness world build identity"):
        marking.judges(tmp_path / "identity.safetensors")


def test_the_shipped_judges_tell_people_and_hands_apart() -> None:
    """Three styles, six people each that they never met; four unseen artists. The full figures stand in results/published/recipes.md."""
    from harness.world.artists import artist
    from harness.world.render import works

    found = []
    for by in ("artist-01", "artist-06", "artist-09"):
        who = [person for person, _ in zip(people(artist(by), "held-out", 5), range(6))]
        seen = identity.read(marking.judges(), "identity", np.stack([np.asarray(p.portrait(k).image()) for p in who for k in range(4)]))
        found += marking.apart(seen, seen, [p.key for p in who for _ in range(4)])
    assert np.mean(found) > 0.95
    names = ("artist-21", "artist-24", "artist-60", "artist-80")
    seen = identity.read(marking.judges(), "style", np.concatenate([works(artist(name), 4, seed=5)[0] for name in names]))
    assert np.mean(marking.apart(seen, seen, [name for name in names for _ in range(4)])) > 0.9
