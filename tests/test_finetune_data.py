"""What training reads: buckets, latents by content, class images, and pictures as people bring them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image, ImageOps

from harness import images as pictures
from harness import models, progress
from harness.errors import BadImage, HarnessError
from harness.finetune import buckets, cache, crops, intake, prior, trainer
from harness.images import ImageSet, open_set, sha256


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: build(root / name) for name, build in tiny.FAMILIES.items()}


@pytest.fixture(scope="module")
def pipe(folders: dict[str, Path]) -> object:
    return models.load_pipeline(str(folders["sd1"]), device="cpu")


def shapes(folder: Path, *sizes: tuple[int, int]) -> ImageSet:
    """Noise of the given (height, width)."""
    rng, folder = np.random.default_rng(1), Path(folder)
    for i, (high, wide) in enumerate(sizes):
        pictures.save_png(folder / f"{i}.png", rng.integers(0, 256, (high, wide, 3), dtype=np.uint8))
    return open_set(folder)


# --- buckets


@pytest.mark.parametrize(("resolution", "step"), [(512, 64), (512, 8), (1024, 64), (64, 16), (16, 4)])
def test_buckets_fit_the_model_and_keep_the_area(resolution: int, step: int) -> None:
    known = buckets.ladder(resolution, step)
    assert (resolution, resolution) in known and {(w, h) for h, w in known} == set(known)
    assert all(h % step == 0 and w % step == 0 and max(h, w) <= 2 * min(h, w) for h, w in known)
    error = [abs(h * w / resolution**2 - 1) for h, w in known]
    assert max(error) <= step / resolution * 1.01 and len(known) >= 3


def test_each_picture_gets_the_bucket_that_cuts_off_least() -> None:
    sizes = [(3000, 4000), (4000, 3000), (999, 1000), (100, 5000), (4000, 2250)]
    plan = buckets.plan(sizes, 512, 64)
    assert plan[0] == plan[1][::-1] and plan[2] == (512, 512) and plan[3] == min(buckets.ladder(512, 64), key=lambda b: b[0] / b[1])

    def left(size: tuple[int, int], bucket: tuple[int, int]) -> float:
        ratio = (size[0] / size[1]) / (bucket[0] / bucket[1])
        return min(ratio, 1 / ratio)

    for size, chosen in zip(sizes, plan, strict=True):
        assert left(size, chosen) >= max(left(size, other) for other in buckets.ladder(512, 64)) - 1e-6
    with pytest.raises(HarnessError, match="500 is not divisible by 64"):
        buckets.plan(sizes, 500, 64)


def test_with_one_bucket_batches_are_what_they_always_were() -> None:
    def before(seed: int, step: int, size: int, n: int) -> list[int]:
        wanted = range(step * size, (step + 1) * size)
        orders = {epoch: torch.randperm(n, generator=trainer.generator(seed, -1 - epoch)) for epoch in {i // n for i in wanted}}
        return [int(orders[i // n][i % n]) for i in wanted]

    for seed, size, n in ((0, 4, 6), (7, 8, 3), (1, 1, 5), (3, 5, 5)):
        for step in range(40):
            drawn = buckets.batch(seed, step, size, [(64, 64)] * n)
            assert drawn.dtype == torch.int64 and drawn.tolist() == before(seed, step, size, n)


def epochs_of(counts: dict[str, int], size: int) -> list[int]:
    """First step of epochs 0, 1, ... by the documented rule, computed another way."""
    firsts, shown, step = [0], dict.fromkeys(counts, 0), 0
    for epoch in range(1, 9):
        for label, n in counts.items():
            while shown[label] < epoch * n:
                shown[label], step = shown[label] + size, step + 1
        firsts.append(step)
    return firsts


@pytest.mark.parametrize(("counts", "size"), [({"wide": 17, "square": 3, "tall": 1}, 4), ({"a": 5, "b": 5}, 2), ({"a": 1, "b": 1, "c": 1}, 8), ({"a": 40, "b": 2}, 1)])
def test_after_every_epoch_every_picture_was_shown_as_often_as_any_other(counts: dict[str, int], size: int) -> None:
    labels = [label for label, n in counts.items() for _ in range(n)]
    np.random.default_rng(0).shuffle(labels)
    firsts = epochs_of(counts, size)
    shown, orders = Counter(), []
    for step in range(firsts[-1]):
        drawn = buckets.batch(5, step, size, labels).tolist()
        assert len(drawn) == size and len({labels[i] for i in drawn}) == 1
        shown.update(drawn)
        orders.append(labels[drawn[0]])
        if step + 1 in firsts:
            epoch = firsts.index(step + 1)
            for label, n in counts.items():
                times = [shown[i] for i, own in enumerate(labels) if own == label]
                assert min(times) >= epoch and sum(times) - epoch * n < size  # each at least once an epoch, and fewer than a batch borrowed
    assert buckets.batch(5, 3, size, labels).tolist() == buckets.batch(5, 3, size, labels).tolist()
    assert len({tuple(buckets.batch(seed, 0, size, labels).tolist()) for seed in range(8)}) > 1
    if max(counts.values()) > 10:
        assert orders != sorted(orders) and orders != sorted(orders, reverse=True)


def test_sizes_are_read_upright_and_without_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("jpg", "png", "webp", "tif"):
        for orientation in (1, 3, 6, 8):
            exif = Image.Exif()
            exif[0x0112] = orientation
            Image.new("RGB", (40, 24), "red").save(tmp_path / f"{kind}-{orientation}.{kind}", exif=exif)
    images = open_set(tmp_path)
    assert buckets.sizes(images) == [(picture.height, picture.width) for picture in images.decoded()]
    assert set(buckets.sizes(images)) == {(24, 40), (40, 24)}
    jpegs = images.where(images.table["file"].str.endswith("jpg"))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("unpacked"))
    buckets.sizes(jpegs)
    with pytest.raises(BadImage, match="none.png"):
        buckets.sizes(ImageSet(tmp_path, images.table.assign(file="none.png")))


# --- latents


def test_latents_of_several_shapes(pipe: object, tmp_path: Path) -> None:
    images = shapes(tmp_path / "set", (16, 16), (20, 40), (40, 20), (16, 32))
    plan = buckets.plan(buckets.sizes(images), 16, 4)
    assert plan == [(16, 16), (12, 24), (24, 12), (12, 24)]
    kept = cache.latents(pipe, images, 16, True, tmp_path / "cache", progress.silent, plan)
    assert len(kept) == 4 and list(kept.sizes) == plan and [tuple(m.shape) for m in kept.mean] == [(2, 4, h // 2, w // 2) for h, w in plan]
    drawn = kept.draw(torch.tensor([1, 3, 1]), trainer.generator(0, 0))
    assert drawn.shape == (3, 4, 6, 12) and not torch.equal(drawn[0], drawn[2])
    square = cache.latents(pipe, images.where([True, False, False, False]), 16, True, tmp_path / "cache", progress.silent)
    assert torch.equal(square.mean[:, 0], kept.mean[0]) and len(list((tmp_path / "cache").iterdir())) == 4  # the square's file was there


def test_a_list_of_shapes_draws_what_one_tensor_draws() -> None:
    mean, std = torch.randn(2, 5, 4, 3, 3), torch.rand(2, 5, 4, 3, 3)
    index = torch.tensor([4, 0, 0, 2])
    listed = cache.Latents(list(mean.unbind(1)), list(std.unbind(1)))
    assert torch.equal(cache.Latents(mean, std).draw(index, trainer.generator(0, 3)), listed.draw(index, trainer.generator(0, 3)))


def test_the_key_of_a_square_is_that_of_earlier_versions(pipe: object, tmp_path: Path) -> None:
    images = tiny.pictures(tmp_path / "set", n=1)
    cache.latents(pipe, images, 16, False, tmp_path / "cache", progress.silent)
    vae = models.weights_hash(pipe.origin.folder / "vae")
    old = sha256(f"{vae} {images.table['sha256'][0]} centre square, lanczos 16 flip=False".encode())
    assert [path.stem for path in (tmp_path / "cache").iterdir()] == [old]


def test_what_is_known_is_not_unpacked_again_and_what_is_damaged_is_made_again(pipe: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, told = tiny.pictures(tmp_path / "set", n=3), []
    first = cache.latents(pipe, images, 16, False, tmp_path / "cache", progress.silent)
    files = sorted((tmp_path / "cache").iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(pictures, "decode", lambda *_: pytest.fail("unpacked"))
        cache.latents(pipe, images, 16, False, tmp_path / "cache", progress.silent)
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:-9])
    again = cache.latents(pipe, images, 16, False, tmp_path / "cache", told.append)
    assert torch.equal(first.mean, again.mean) and files[1].read_bytes() == whole
    assert [event["note"] for event in told if "note" in event] and files[1].name in next(e["note"] for e in told if "note" in e)


def test_fresh_latents_lie_in_memory_as_those_that_are_read_back(pipe: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cache._posterior
    monkeypatch.setattr(cache, "_posterior", lambda *a: {name: t.contiguous(memory_format=torch.channels_last) for name, t in real(*a).items()})
    images = tiny.pictures(tmp_path / "set", n=3)  # rounding in a convolution depends on the layout
    fresh, known = (cache.latents(pipe, images, 16, False, tmp_path / "cache", progress.silent) for _ in range(2))
    assert fresh.mean.stride() == known.mean.stride() and not fresh.mean.is_inference() and torch.equal(fresh.mean, known.mean)


def test_a_crop_is_part_of_the_key_and_is_what_is_encoded(pipe: object, tmp_path: Path) -> None:
    images = shapes(tmp_path / "set", (40, 60), (40, 60))
    boxed = images.assign(crop=["10 5 42 37", ""])
    whole, part = (cache.latents(pipe, each, 16, False, tmp_path / "cache", progress.silent) for each in (images, boxed))
    assert not torch.equal(whole.mean[:, 0], part.mean[:, 0]) and torch.equal(whole.mean[:, 1], part.mean[:, 1])
    pictures.save_png(tmp_path / "cut" / "0.png", pictures.decode(images.paths[0]).crop((10, 5, 42, 37)))
    alone = cache.latents(pipe, open_set(tmp_path / "cut"), 16, False, tmp_path / "cache", progress.silent)
    assert torch.equal(alone.mean[:, 0], part.mean[:, 0]) and buckets.sizes(boxed) == [(32, 32), (40, 60)]
    with pytest.raises(HarnessError, match=r"0\.png.*outside the picture \(60 x 40"):
        cache.latents(pipe, images.assign(crop="0 0 61 40"), 16, False, tmp_path / "cache", progress.silent)
    for wrong in ("1 2 3", "5 5 5 9", "a b c d", "-1 0 5 5"):
        with pytest.raises(HarnessError, match="crop"):
            crops.column(images.assign(crop=wrong))


def test_latents_that_are_no_numbers_are_not_kept(folders: dict[str, Path], tmp_path: Path) -> None:
    broken = models.load_pipeline(str(folders["sd1"]), device="cpu")
    with torch.no_grad():
        broken.vae.quant_conv.weight.fill_(float("nan"))
    with pytest.raises(HarnessError, match="not numbers"):
        cache.latents(broken, tiny.pictures(tmp_path / "set", n=1), 16, False, tmp_path / "cache", progress.silent)
    assert not list(tmp_path.glob("cache/*"))


# --- class images

CLASS = "a photo of a person"


def classes(pipe: object, n: int, folder: Path, **other: object) -> torch.Tensor:
    return prior.class_latents(pipe, **{"prompt": CLASS, "n": n, "folder": folder, "progress": progress.silent, "size": 16, "steps": 2} | other)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_class_images_are_what_the_pipeline_draws_and_are_never_decoded(family: str, folders: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    pipe = models.load_pipeline(str(folders[family]), device="cpu")
    own = pipe.scheduler
    monkeypatch.setattr(type(pipe.vae), "decode", lambda *_, **__: pytest.fail("decoded"))
    drawn = classes(pipe, 3, tmp_path, seed=6)
    assert drawn.shape == (3, 4, 8, 8) and drawn.dtype == torch.float32 and pipe.scheduler is own
    plain = diffusers.DiffusionPipeline.from_pretrained(folders[family])
    plain.set_progress_bar_config(disable=True)
    plain.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(plain.scheduler.config, algorithm_type="dpmsolver++")
    for i, latents in enumerate(drawn):
        alone = plain(CLASS, height=16, width=16, num_inference_steps=2, guidance_scale=7.5, output_type="latent",
                      generator=torch.Generator().manual_seed(6 + i)).images[0]
        assert torch.allclose(latents, alone, atol=1e-4)
    assert drawn.std() > 0.1


def test_class_images_are_shared_and_more_are_drawn_when_more_are_wanted(pipe: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[range] = []
    real = prior._draw
    monkeypatch.setattr(prior, "_draw", lambda p, s, prompt, seeds, *rest: drawn.append(seeds) or real(p, s, prompt, seeds, *rest))
    told: list[dict] = []
    few = classes(pipe, 10, tmp_path / "a", progress=told.append)
    assert drawn == [range(8), range(8, 16)] and [e["step"] for e in told] == [8, 10] and {(e["stage"], e["of"]) for e in told} == {("class images", 10)}
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    more = classes(pipe, 20, tmp_path / "a")
    assert drawn[2:] == [range(16, 24)] and torch.equal(more[:10], few)
    assert all((tmp_path / "a" / name).read_bytes() == data for name, data in before.items())
    assert torch.equal(classes(pipe, 5, tmp_path / "a", seed=9), more[9:14]) and len(drawn) == 3
    assert torch.equal(classes(pipe, 20, tmp_path / "b"), more)  # from nothing, in one go: the same bytes
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()}


def test_the_name_of_a_class_image_is_all_that_decides_it(pipe: object, folders: dict, tmp_path: Path) -> None:
    classes(pipe, 8, tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    other = models.load_pipeline(str(folders["sd2"]), device="cpu")
    for change in ({"prompt": "a photo of a dog"}, {"steps": 3}, {"guidance_scale": 5.0}, {"size": 24}, {"seed": 8}, {"pipe": other}):
        classes(**{"pipe": pipe, "n": 1, "folder": tmp_path} | change)
        now = {path.name for path in tmp_path.iterdir()}
        assert len(now - files) == 8, change
        files = now
    half = models.load_pipeline(str(folders["sd1"]), device="cpu", dtype=torch.bfloat16)
    assert classes(half, 1, tmp_path).dtype == torch.float32 and len(list(tmp_path.iterdir())) == len(files) + 8


def test_a_damaged_class_image_is_drawn_again_and_a_large_one_in_smaller_company(pipe: object, tmp_path: Path) -> None:
    first, told = classes(pipe, 4, tmp_path), []
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(classes(pipe, 4, tmp_path, progress=told.append), first) and sum("damaged" in e.get("note", "") for e in told) == 4
    assert [max(1, prior.BLOCK * prior.AT**2 // max(size, prior.AT)**2) for size in (64, 512, 768, 1024, 2048)] == [8, 8, 3, 2, 1]


def test_class_images_that_cannot_be_drawn(pipe: object, folders: dict, tmp_path: Path) -> None:
    from peft import LoraConfig

    for wrong, words in (({"prompt": " "}, "prompt"), ({"n": 0}, "at least one"), ({"size": 15}, "nearest is 16")):
        with pytest.raises(HarnessError, match=words):
            classes(**{"pipe": pipe, "n": 1, "folder": tmp_path} | wrong)
    worn = models.load_pipeline(str(folders["sd1"]), device="cpu")
    worn.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"]))
    with pytest.raises(HarnessError, match="adapter"):
        classes(worn, 1, tmp_path)
    broken = models.load_pipeline(str(folders["sd1"]), device="cpu")
    with torch.no_grad():
        broken.unet.conv_out.weight.fill_(float("nan"))
    with pytest.raises(HarnessError, match="not numbers"):
        classes(broken, 1, tmp_path)
    assert not list(tmp_path.iterdir())


SCRIPT = """
import os, signal, sys
sys.path[:0] = [{here!r}]
import test_finetune_data as t
count, real = 0, os.replace
def die(*args):
    global count
    count += 1
    if count == {kill}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
os.replace = die
t.classes(t.models.load_pipeline({model!r}, device="cpu"), 12, t.Path({out!r}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_while_drawing_class_images_it_goes_on_to_the_same_bytes(folders: dict, pipe: object, tmp_path: Path) -> None:
    here = Path(__file__).parent
    code = SCRIPT.format(here=str(here), kill=5, model=str(folders["sd1"]), out=str(tmp_path / "a"))
    died = subprocess.run([sys.executable, "-c", code], cwd=here.parent, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL and len(list((tmp_path / "a").glob("[0-9a-f]*"))) == 4, died.stderr.decode()
    resumed, whole = (classes(pipe, 12, tmp_path / out) for out in "ab")
    a, b = ({path.name: path.read_bytes() for path in (tmp_path / out).glob("[0-9a-f]*")} for out in "ab")
    assert torch.equal(resumed, whole) and a == b and len(a) == 16


# --- pictures as people bring them


@pytest.fixture(scope="module")
def drawn() -> list[np.ndarray]:
    """Works of an artist of the world, at 256 pixels: pictures that near-duplicates are measured on."""
    from harness.world.artists import artist
    from harness.world.render import works

    return [np.asarray(Image.fromarray(each).resize((256, 256), Image.Resampling.BICUBIC)) for each in works(artist("artist-21"), 8)[0]]


def brought(folder: Path, *named: tuple[str, Image.Image], **saved: object) -> ImageSet:
    folder.mkdir(exist_ok=True)
    for name, picture in named:
        picture.save(folder / name, **saved)
    return open_set(folder)


def test_good_pictures_pass_without_a_word(drawn: list[np.ndarray], tmp_path: Path) -> None:
    images = brought(tmp_path, *((f"{i}.png", Image.fromarray(each)) for i, each in enumerate(drawn)))
    told: list[dict] = []
    checked, notes = intake.check(images, "subject", 256, progress=told.append)
    assert checked is images and notes == [] and told[-1] == {"stage": "looking through", "step": 8, "of": 8}


def test_duplicates_are_named_and_counted_once_unless_asked(drawn: list[np.ndarray], tmp_path: Path) -> None:
    a, b, c, d, e = map(Image.fromarray, drawn[:5])
    images = brought(tmp_path, ("a.png", a), ("a-same.png", a), ("b.png", b), ("b-pixels.bmp", b), ("c-mirror.png", ImageOps.mirror(c.resize((200, 200)))),
                     ("c.png", c), ("d.png", d), ("e.png", e))
    checked, notes = intake.check(images, "subject", 64)
    assert checked.table["file"].tolist() == ["a-same.png", "b-pixels.bmp", "c.png", "d.png", "e.png"]  # of c the larger, otherwise the first
    assert notes == ["a-same.png, a.png are the same file; counted once, a-same.png is used.",
                     "b-pixels.bmp, b.png are the same pixels; counted once, b-pixels.bmp is used.",
                     "c.png, c-mirror.png are nearly the same; counted once, c.png is used."]
    everything, notes = intake.check(images, "subject", 64, keep_duplicates=True)
    assert len(everything) == 8 and all(note.endswith("all are used, as asked.") for note in notes)
    with pytest.raises(HarnessError, match=r"1 different picture; .*at least 3 \(a-same.png, a.png are the same file"):
        intake.check(images.where(images.table["file"].str.startswith("a")), "subject")


def test_too_few_are_refused_and_unusual_counts_are_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = brought(tmp_path, *((f"{i:03d}.png", Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))) for i in range(120)))
    for n, purpose in ((2, "subject"), (1, "style")):
        with pytest.raises(HarnessError, match=f"{n} different picture.*at least 3"):
            intake.check(images.where(np.arange(120) < n), purpose)
    for n, purpose, words in ((5, "style", "5 different pictures, fewer than the 20 to 50 that a style wants"), (21, "subject", "more than the 3 to 20"),
                              (120, "style", "120 different pictures, more")):
        _, notes = intake.check(images.where(np.arange(120) < n), purpose)
        assert words in notes[0] and len(notes) == 1 + (n > 100)
    with pytest.raises(HarnessError, match="none of subject, style"):
        intake.check(images, "person")


def test_every_picture_that_cannot_be_used_is_named_in_one_sentence(drawn: list[np.ndarray], tmp_path: Path) -> None:
    named = [(f"{i}.png", Image.fromarray(each)) for i, each in enumerate(drawn[:4])]
    images = brought(tmp_path, *named)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:999])
    Image.fromarray(drawn[4]).save(tmp_path / "3.png", save_all=True, append_images=[Image.fromarray(drawn[5])])
    with pytest.raises(BadImage, match=r"2 of 4 pictures cannot be used: .*1\.png: not a whole picture.* \| .*3\.png: animated") as error:
        intake.check(images, "subject")
    assert "\n" not in str(error.value)


def test_tiny_and_long_pictures(drawn: list[np.ndarray], tmp_path: Path) -> None:
    whole = [Image.fromarray(each) for each in drawn[:5]]
    images = brought(tmp_path, *((f"{i}.png", each) for i, each in enumerate(whole[:3])), ("small.png", whole[3].resize((150, 150))),
                     ("long.png", whole[4].resize((1200, 300))))
    _, notes = intake.check(images, "subject", 256)
    assert notes == ["small.png will be enlarged to 256 pixels, and the model learns the blur.",
                     "long.png (1200 x 300): so long that more than half is cut off a square; choose crops, or cut it yourself."]
    with pytest.raises(BadImage, match=r"1 of 5 pictures are too small for training at 601 pixels: small.png \(150 x 150\)"):
        intake.check(images.where(images.table["file"] != "x"), "subject", 601)
    cropped = images.assign(crop=["", "", "", "0 0 300 300", ""]) if images.table["file"][3] == "long.png" else None
    assert cropped is not None and len(intake.check(cropped, "subject", 256)[1]) == 1
    with pytest.raises(BadImage, match=r"too small.*long.png \(40 x 40\)"):
        intake.check(images.assign(crop=["", "", "", "0 0 40 40", ""]), "subject", 256)


def test_cmyk_16_bit_and_transparent_pictures_are_taken_and_said(drawn: list[np.ndarray], tmp_path: Path) -> None:
    whole = [Image.fromarray(each) for each in drawn[:6]]
    clear = whole[2].convert("RGBA")
    clear.putalpha(Image.linear_gradient("L"))
    deep = Image.fromarray(np.asarray(whole[1].convert("L")).astype(np.uint16) * 257)
    images = brought(tmp_path, ("c.tif", whole[0].convert("CMYK")), ("d.png", deep), ("e.png", clear), *((f"{i}.png", whole[i]) for i in (3, 4, 5)))
    _, notes = intake.check(images, "subject")
    assert notes == ["c.tif: in CMYK, turned into RGB.", "d.png: of 16 bit, scaled to 8.", "e.png: transparent, laid over white."]


def test_a_turned_photograph_is_trained_on_upright(pipe: object, drawn: list[np.ndarray], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.fromarray(drawn[0][:160])
    turned = brought(tmp_path / "t", ("a.png", upright.rotate(90, expand=True)), exif=exif)
    plain = brought(tmp_path / "p", ("a.png", upright))
    assert turned.table["sha256"][0] != plain.table["sha256"][0] and buckets.sizes(turned) == buckets.sizes(plain) == [(160, 256)]
    plan = buckets.plan(buckets.sizes(turned), 16, 4)
    a, b = (cache.latents(pipe, each, 16, False, tmp_path / "cache", progress.silent, plan) for each in (turned, plain))
    assert torch.equal(a.mean, b.mean)
    both = brought(tmp_path / "b", *((f"{i}.png", Image.fromarray(drawn[i])) for i in (1, 2)), ("u.png", upright))
    upright.rotate(90, expand=True).save(tmp_path / "b" / "t.png", exif=exif)
    _, notes = intake.check(open_set(both.folder), "subject")
    assert notes == ["t.png, u.png are the same pixels; counted once, t.png is used."]


def test_captions_of_subjects_and_styles(tmp_path: Path) -> None:
    images = tiny.pictures(tmp_path, n=3).assign(caption=["a boat", "", "a dog"])
    assert intake.caption_subject(images, "sks", "person").table["caption"].tolist() == ["a photo of sks person"] * 3
    assert intake.caption_subject(images, "sks", "dog", "caption").table["caption"].tolist() == ["a photo of sks dog, a boat", "a photo of sks dog", "a photo of sks dog, a dog"]
    assert intake.caption_style(images, " sks ").table["caption"].tolist() == ["a boat, a picture by sks", "a picture by sks", "a dog, a picture by sks"]
    bare = ImageSet(images.folder, images.table.drop(columns="caption"))
    assert set(intake.caption_style(bare, "sks", template="art of {token}").table["caption"]) == {"art of sks"}
    for wrong in (lambda: intake.caption_subject(images, "", "dog"), lambda: intake.caption_subject(images, "sks", " "), lambda: intake.caption_style(images, ""),
                  lambda: intake.caption_subject(images, "sks", "dog", "mood"), lambda: intake.caption_style(images, "sks", "mood")):
        with pytest.raises(HarnessError):
            wrong()
