"""New words: only their rows move, plain diffusers draws the same with them, and the pipeline comes back as it was."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from harness import models, progress
from harness.consent import gate, ledger
from harness.errors import HarnessError
from harness.finetune import Adapter, Lora, concepts, inversion, lora
from harness.finetune.adapter import read_manifest
from harness.finetune.adapter import WORDS as FILE
from harness.finetune.inversion import TextualInversion, textual_inversion, wearing
from harness.finetune.pivotal import Pivotal, pivotal
from harness.images import ImageSet, sha256, write_set

GIVEN = {"steps": 6, "warmup": 1, "checkpoint_every": 3, "batch_size": 4, "token": "<x>", "vectors": 2, "initial_word": "a", "mixed_precision": "no"}
WORDS = TextualInversion(learning_rate=0.05, **GIVEN)
BOTH = Pivotal(learning_rate=0.02, words_learning_rate=0.05, **GIVEN)
YES = ledger.of([ledger.Record(f"artist-{i:02d}", "*", "cawg.ai_generative_training", "allowed", "a letter", "2024-01-01") for i in range(8)])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inversion")


@pytest.fixture(scope="module")
def images(root: Path) -> ImageSet:
    return tiny.pictures(root / "works").assign(caption=[f"a <x> {i}" for i in range(6)])


@pytest.fixture(scope="module")
def folders(root: Path) -> dict[str, Path]:
    return {name: build(root / name) for name, build in tiny.FAMILIES.items()}


@pytest.fixture(scope="module")
def pipe(folders: dict[str, Path]) -> object:
    return models.load_pipeline(str(folders["sd1"]), device="cpu")


def train(pipe: object, images: ImageSet, out: Path, how: TextualInversion = WORDS, **extra: object) -> Adapter:
    recipe = pivotal if isinstance(how, Pivotal) else textual_inversion
    return recipe(how, pipe, images, out, gate.ask(images, YES), **{"progress": progress.silent} | extra)


def plain(pipe: object, prompt: str = "a <x> in the a") -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    return pipe(prompt, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np").images[0]


def state(pipe: object) -> dict[str, torch.Tensor]:
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{name}.{key}": tensor.clone() for name, part in parts.items() for key, tensor in part.state_dict().items()}


def fresh(folder: Path, out: Path, how: TextualInversion) -> object:
    """The base model in plain diffusers with what a training left, as anyone would load it."""
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    rows = load_file(out / FILE)
    if "clip_g" in rows:
        pipe.load_textual_inversion(rows["clip_l"], token=how.names, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
        pipe.load_textual_inversion(rows["clip_g"], token=how.names, text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)
    elif len(rows) == 1:
        pipe.load_textual_inversion(out)
    else:
        pipe.load_textual_inversion([{word: tensor} for word, tensor in rows.items()])
    if isinstance(how, Pivotal):
        pipe.load_lora_weights(out)
    return pipe


# --- the round trip


@pytest.mark.parametrize("how", [WORDS, replace(WORDS, vectors=1), BOTH, replace(BOTH, text_encoder=True, text_learning_rate=0.02)],
                         ids=["words", "one row", "pivotal", "pivotal with text encoder"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_plain_diffusers_draws_the_same_and_the_pipeline_comes_back(family: str, how: TextualInversion, folders: dict, images: ImageSet, tmp_path: Path) -> None:
    pipe = models.load_pipeline(str(folders[family]), device="cpu")
    before, tokenizers, base = state(pipe), [pipe.tokenizer, getattr(pipe, "tokenizer_2", None)], plain(pipe)
    seen: list[np.ndarray] = []
    train(pipe, images, tmp_path, how, preview=lambda p, step: seen.append(plain(p)))
    after = state(pipe)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert [pipe.tokenizer, getattr(pipe, "tokenizer_2", None)] == tokenizers and "<x>" not in pipe.tokenizer.get_vocab()
    assert np.array_equal(plain(pipe), base) and np.abs(seen[-1] - base).max() > 0.01
    drawn = plain(fresh(folders[family], tmp_path, how))
    assert np.abs(drawn - seen[-1]).max() == 0.0 if not isinstance(how, Pivotal) else np.abs(drawn - seen[-1]).max() < 1e-5


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_wearing_draws_the_same_and_takes_off_again(family: str, folders: dict, images: ImageSet, tmp_path: Path) -> None:
    pipe = models.load_pipeline(str(folders[family]), device="cpu")
    train(pipe, images, tmp_path)
    base = plain(pipe)
    with wearing(pipe, tmp_path) as words:
        assert words == ["<x>"] and np.array_equal(plain(pipe), plain(fresh(folders[family], tmp_path, WORDS)))
    assert np.array_equal(plain(pipe), base)


def test_only_the_new_rows_are_trained(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    table = pipe.text_encoder.get_input_embeddings().weight.detach()
    before, during = table.clone(), []
    adapter = train(pipe, images, tmp_path, preview=lambda p, step: during.append(p.text_encoder.get_input_embeddings().weight.detach().clone()))
    assert all(torch.equal(each, before) for each in during) and len(during) == 2
    rows = load_file(adapter.path)
    assert rows.keys() == {"<x>"} and rows["<x>"].shape == (2, 16) and rows["<x>"].dtype == torch.float32
    start = before[pipe.tokenizer.convert_tokens_to_ids("a</w>")]
    assert (rows["<x>"] - start).abs().amax(dim=1).min() > 0.01 and not torch.equal(*rows["<x>"])
    assert read_manifest(adapter.path) == adapter.manifest and adapter.manifest["recipe"] == "textual_inversion"


def test_a_word_of_several_rows_reads_as_diffusers_reads_it(pipe: object) -> None:
    rows = torch.randn(2, 16)
    with inversion.worn(pipe, ["<x>", "<x>_1"], [rows]):
        embedded = pipe.text_encoder.get_input_embeddings()(pipe.tokenizer(pipe.maybe_convert_prompt("a <x> a", pipe.tokenizer), return_tensors="pt").input_ids)[0]
    known = pipe.text_encoder.get_input_embeddings()(pipe.tokenizer("a a", return_tensors="pt").input_ids)[0]
    assert torch.equal(embedded, torch.cat([known[:2], rows, known[2:]]))


def test_after_an_error_the_pipeline_is_as_it_was(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    def stop(event: dict) -> None:
        if event.get("stage") == "train" and event.get("step") == 2:
            raise KeyboardInterrupt

    before, own = state(pipe), pipe.tokenizer
    with pytest.raises(KeyboardInterrupt):
        train(pipe, images, tmp_path, BOTH, progress=stop)
    after = state(pipe)
    assert pipe.tokenizer is own and before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_base_in_half_precision_comes_back_in_it(folders: dict, images: ImageSet, tmp_path: Path) -> None:
    half = models.load_pipeline(str(folders["sd1"]), device="cpu", dtype=torch.bfloat16)
    before = state(half)
    for how in (BOTH, replace(BOTH, mixed_precision="bf16")):
        adapter = train(half, images, tmp_path / how.mixed_precision, how)
        after = state(half)
        assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
        assert {tensor.dtype for file in (FILE, adapter.path.name) for tensor in load_file(tmp_path / how.mixed_precision / file).values()} == {torch.float32}


# --- learning


@pytest.mark.parametrize("how", [WORDS, BOTH], ids=["words", "pivotal"])
def test_the_loss_falls_on_what_it_was_shown(how: TextualInversion, pipe: object, images: ImageSet, tmp_path: Path) -> None:
    flat = np.broadcast_to(np.linspace(0, 255, 16)[:, None, None], (16, 16, 3)).astype(np.uint8)
    shown = write_set(tmp_path / "same", [flat, flat // 2, flat[::-1]], images.table[["caption", "artist"]].head(3))
    told = replace(how, steps=40, checkpoint_every=40, batch_size=6, caption_dropout=0.0, bounded=False)
    still = replace(told, learning_rate=1e-9, **({"words_learning_rate": 1e-9} if how is BOTH else {}))
    learned, unlearned = (train(pipe, shown, tmp_path / name, each).losses["loss"] for name, each in (("learned", told), ("still", still)))
    gain = (unlearned - learned)[-20:]  # the same pictures, noise and noise levels at every step
    assert gain.mean() > 3 * gain.std() / 20**0.5 > 0 and learned[0] == unlearned[0]


def test_rows_stay_as_short_as_the_models_own_words(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    longest = pipe.text_encoder.get_input_embeddings().weight.norm(dim=1).max()
    length = {bounded: load_file(train(pipe, images, tmp_path / str(bounded), replace(WORDS, learning_rate=0.5, bounded=bounded)).path)["<x>"].norm(dim=1)
              for bounded in (True, False)}
    assert length[True].max() <= longest * (1 + 1e-6) < length[False].max()


@pytest.mark.parametrize("how", [WORDS, BOTH], ids=["words", "pivotal"])
def test_stopped_it_goes_on_to_the_same_bytes(how: TextualInversion, pipe: object, images: ImageSet, tmp_path: Path) -> None:
    def stop(event: dict) -> None:
        if event.get("stage") == "train" and event.get("step") == 5:
            raise KeyboardInterrupt

    whole = train(pipe, images, tmp_path / "whole", how)
    with pytest.raises(KeyboardInterrupt):
        train(pipe, images, tmp_path / "cut", how, progress=stop)
    assert not (tmp_path / "cut" / FILE).exists()
    cut = train(pipe, images, tmp_path / "cut", how)
    assert cut.manifest == whole.manifest
    for name in {FILE, whole.path.name}:
        assert sha256(tmp_path / "whole" / name) == sha256(tmp_path / "cut" / name)
    assert cut.losses.equals(whole.losses)


def test_every_step_that_was_kept_loads(folders: dict, pipe: object, images: ImageSet, tmp_path: Path) -> None:
    seen: list[np.ndarray] = []
    train(pipe, images, tmp_path, BOTH, preview=lambda p, step: seen.append(plain(p)))
    assert np.abs(plain(fresh(folders["sd1"], tmp_path / "steps" / "00003", BOTH)) - seen[0]).max() < 1e-5


# --- bad words


@pytest.mark.parametrize("wrong", [{"token": "sks"}, {"token": "<A>"}, {"token": ""}, {"token": "<a> <a>"}, {"token": "<a b>"}, {"token": "<x>_1"}, {"vectors": 0},
                                   {"initial_word": ""}, {"initial_word": "a b c", "token": "<a> <b>"}, {"text_encoder": True}, {"text_learning_rate": 0.1}])
def test_settings_that_contradict_themselves(wrong: dict) -> None:
    with pytest.raises(HarnessError):
        TextualInversion(**wrong)


@pytest.mark.parametrize("wrong", [{"words_learning_rate": 0.0}, {"text_learning_rate": 0.1}, {"rank": 0}, {"token": "sks"}, {"layers": "none"}, {"steps": 0}])
def test_settings_of_both_that_contradict_themselves(wrong: dict) -> None:
    with pytest.raises(HarnessError):
        Pivotal(**wrong)


def test_words_that_cannot_be_learned(pipe: object, images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="splits 'theremin'"):
        train(pipe, images, tmp_path, replace(WORDS, initial_word="theremin"))
    with pytest.raises(HarnessError, match=r"00002.png.*does not hold <x>"):
        train(pipe, images.assign(caption=["a <x>", "<x>", "a portrait", "<x>", "<x>", "<x>"]), tmp_path)
    with pytest.raises(HarnessError, match="does not hold"):
        train(pipe, ImageSet(images.folder, images.table.drop(columns="caption")), tmp_path)
    with inversion.worn(pipe, ["<x>"], [torch.zeros(1, 16)]), pytest.raises(HarnessError, match="<x>.*already"):
        train(pipe, images, tmp_path)
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def test_words_of_another_model_or_from_elsewhere_are_refused(folders: dict, pipe: object, images: ImageSet, tmp_path: Path) -> None:
    train(pipe, images, tmp_path / "a")
    sdxl = models.load_pipeline(str(folders["sdxl"]), device="cpu")
    with pytest.raises(HarnessError, match="another kind of model"), wearing(sdxl, tmp_path / "a"):
        pass
    save_file({"<x>": torch.zeros(1, 16)}, tmp_path / "foreign.safetensors")
    with pytest.raises(HarnessError, match="no training manifest"), wearing(pipe, tmp_path / "foreign.safetensors"):
        pass


# --- several concepts


def three(folder: Path, tokens: tuple[str, ...] = ("<a>", "<b>", "<c>"), counts: tuple[int, ...] = (3, 5, 7)) -> ImageSet:
    sets = {}
    for i, (token, n) in enumerate(zip(tokens, counts, strict=True)):
        found = tiny.pictures(folder / f"set{i}", n=n, seed=i, artist=f"artist-{i:02d}")
        sets[token] = found.assign(caption=[f"a {token} {j}" for j in range(n)])
    return concepts.join(sets)


def test_every_concept_is_shown_equally_often_and_within_it_every_picture(tmp_path: Path) -> None:
    joined = three(tmp_path)
    label = concepts.labels(joined)
    shown = torch.cat([concepts.batch(7, step, 4, label, [0] * 15) for step in range(3 * 105 // 4 + 1)])[:315].tolist()
    for i in range(0, 315, 3):
        assert {label[k] for k in shown[i:i + 3]} == {"<a>", "<b>", "<c>"}
    times = Counter(shown)
    assert {times[k] for k in range(3)} == {35} and {times[k] for k in range(3, 8)} == {21} and {times[k] for k in range(8, 15)} == {15}
    assert concepts.batch(7, 5, 4, label, [0] * 15).tolist() == shown[20:24] != concepts.batch(8, 5, 4, label, [0] * 15).tolist()
    rounds = [tuple(label[k] for k in shown[i:i + 3]) for i in range(0, 90, 3)]
    assert len(set(rounds)) > 1 and shown[:45] != shown[45:90]


def test_with_buckets_the_balance_holds_for_every_epoch() -> None:
    label, shape = ["<a>"] * 2 + ["<b>"] * 6, [(16, 16), (16, 32)] + [(16, 16)] * 3 + [(16, 32)] * 3
    assert sorted(Counter(concepts.repeated(label)).values()) == [1] * 6 + [3] * 2
    shown = [concepts.batch(0, step, 2, label, shape).tolist() for step in range(60)]  # ten epochs of twelve places
    assert all(shape[one] == shape[other] for one, other in shown)
    times = Counter(k for pair in shown for k in pair)
    assert times[0] + times[1] == sum(times[k] for k in range(2, 8)) == 60 and times[2] == times[7] == 10


def test_counts_without_a_small_common_multiple_stay_near_it() -> None:
    label = [name for name, n in (("a", 17), ("b", 19), ("c", 23)) for _ in range(n)]
    times = Counter(concepts.repeated(label))
    assert len(concepts.repeated(label)) == 3 * concepts.LONGEST
    assert all(max(times[k] for k in part) - min(times[k] for k in part) <= 1 for part in (range(17), range(17, 36), range(36, 59)))


@pytest.mark.parametrize(("recipe", "how"), [(lora, Lora(steps=3, warmup=1, checkpoint_every=3, batch_size=4, mixed_precision="no")),
                                             (pivotal, replace(BOTH, steps=3, token="<a> <b> <c>", vectors=1, initial_word="a i the"))], ids=["lora", "pivotal"])
def test_several_concepts_train_with_any_recipe(recipe: Callable, how: Lora, pipe: object, tmp_path: Path) -> None:
    tokens = ("in", "the", "an") if recipe is lora else ("<a>", "<b>", "<c>")
    joined = three(tmp_path / "sets", tokens)
    adapter = recipe(how, pipe, joined, tmp_path / "out", gate.ask(joined, YES), progress=progress.silent)
    assert Counter(row["concept"] for row in adapter.manifest["images"]) == dict(zip(tokens, (3, 5, 7), strict=True))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_several_words_load_in_plain_diffusers(family: str, folders: dict, tmp_path: Path) -> None:
    joined = three(tmp_path / "sets", ("<a>", "<b>"), (3, 4))
    own, how, seen = models.load_pipeline(str(folders[family]), device="cpu"), replace(WORDS, token="<a> <b>"), []
    train(own, joined, tmp_path / "out", how, preview=lambda p, step: seen.append(plain(p, "<b> in the <a>")))
    assert np.array_equal(plain(fresh(folders[family], tmp_path / "out", how), "<b> in the <a>"), seen[-1])


def test_joined_sets_keep_their_files_columns_and_hashes(tmp_path: Path) -> None:
    joined = three(tmp_path)
    assert joined.folder == tmp_path and len(joined) == 15 and all(path.is_file() for path in joined.paths)
    assert [sha256(path) for path in joined.paths] == list(joined.table["sha256"])
    assert set(joined.table["artist"]) == {"artist-00", "artist-01", "artist-02"} and gate.ask(joined, YES).allowed


def test_concepts_that_cannot_be_told_apart(tmp_path: Path) -> None:
    one = tiny.pictures(tmp_path / "one", n=3).assign(caption="a <a> here")
    other = tiny.pictures(tmp_path / "other", n=3, seed=1)
    for sets, words in (({"<a>": one}, "at least two"), ({"<a>": one, "<b>": other}, "no token"), ({"<a>": one, "<b>": other.assign(caption="<a> <b>")}, "'<a>', '<b>'"),
                        ({"<a>": one, "<b>": ImageSet(other.folder, other.table.drop(columns="caption"))}, "no captions"),
                        ({"<a>": one, "<b>": one.assign(caption="<b>")}, "same picture")):
        with pytest.raises(HarnessError, match=words):
            concepts.join(sets)
    with pytest.raises(HarnessError, match="2 of 3 pictures have no concept"):
        concepts.labels(one.assign(concept=["<a>", "", " "]))
    assert concepts.labels(one) is None
    assert concepts.says("a sks, person", "sks") and concepts.says("SKS", "sks") and not concepts.says("sksy", "sks") and not concepts.says("a <x>s", "<x>")


@pytest.mark.parametrize(("recipe", "how"), [(textual_inversion, WORDS), (pivotal, BOTH)])
def test_sampling_wears_the_words_and_the_lora(recipe: object, how: TextualInversion, pipe: object, images: ImageSet, tmp_path: Path) -> None:
    from harness.sample import Sampling, sample

    def draw(worn: object, name: str, adapter: Path | None = None) -> ImageSet:
        return sample(worn, ["a <x> in the a"], [0], Sampling(steps=2), tmp_path / name, adapter=adapter, progress=progress.silent)

    shown: list[ImageSet] = []
    adapter = recipe(how, pipe, images, tmp_path / "out", gate.ask(images, YES), progress=progress.silent,
                     preview=lambda worn, step: shown.append(draw(worn, f"preview-{step}")))
    drawn = draw(pipe, "drawn", tmp_path / "out")
    assert np.abs(drawn.pixels().astype(int) - shown[-1].pixels()).max() <= 1
    assert drawn.table["adapter_sha256"].item() not in ("", shown[-1].table["adapter_sha256"].item())
    assert np.abs(draw(pipe, "base").pixels().astype(int) - drawn.pixels()).max() > 2 and adapter.export(tmp_path / "public" / "x.safetensors").is_file()
    assert (tmp_path / "public" / FILE).is_file() == (recipe is pivotal)
