"""How the miniature models are trained: exact resume, refusals, and parts that agree with open_clip and diffusers to the last bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learner import HOW, learn

from harness import guard
from harness.errors import HarnessError
from harness.world import build_clip, captions
from harness.world.styles import UNKNOWN

guard.install()

import open_clip  # noqa: E402  (the guard has to come first)
import torch  # noqa: E402

from harness.world import build_unet, build_vae  # noqa: E402
from harness.world.training import Schedule  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = open_clip.SimpleTokenizer(context_length=build_clip.CONTEXT)
TEXTS = ["", "a person", "a smiling person with glasses and red hair, portrait by artist-07", "artist-21: an angry nurse with a mustache",
         "  Two  spaces and CAPITALS?", "naïve café, Zoë", "it's the baker's hat", "100 % wool, 3.14", "日本語", "emoji 🙂 here", "a" * 300,
         "one two three " * 30, "hyphen-ated under_score / slash", "tab\tand\nline"]


# --- training.fit -----------------------------------------------------------------------------------------------------


def test_it_learns_and_ends_with_the_averaged_weights(tmp_path: Path) -> None:
    shipped, curve = learn(tmp_path / "a")
    last, _ = learn(tmp_path / "b", replace(HOW, ema=0.0))
    losses = [c["loss"] for c in curve]
    assert [c["step"] for c in curve] == list(range(1, 61)) and sum(losses[-10:]) < 0.2 * sum(losses[:10])
    assert shipped != last
    assert shipped == learn(tmp_path / "c")[0]


def test_killed_and_resumed_equals_uninterrupted_byte_for_byte(tmp_path: Path) -> None:
    """SIGKILL at a random moment after a fresh checkpoint, twice, in a process of its own."""
    rng, checkpoint = random.Random(os.urandom(4)), tmp_path / "killed" / "checkpoint.safetensors"
    kills = sum(_kill_after(start(tmp_path / "killed"), checkpoint, rng.uniform(0.0, 0.2)) for _ in range(2))
    resumed, curve = learn(tmp_path / "killed")
    whole, expected = learn(tmp_path / "whole")
    assert kills == 2
    assert resumed == whole and [c["loss"] for c in curve] == [c["loss"] for c in expected]
    assert not list((tmp_path / "killed").glob("*.part")) and checkpoint.exists()


def start(folder: Path) -> subprocess.Popen:
    """The learner as a program, slowed down."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, str(ROOT / "tests" / "learner.py"), str(folder), "0.9"], env=environment, stdout=subprocess.PIPE, text=True)


def _kill_after(child: subprocess.Popen, checkpoint: Path, wait: float) -> bool:
    """Kill a child a while after a checkpoint newer than the last; True if it was still running."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    while child.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
        time.sleep(0.005)
    time.sleep(wait)
    child.send_signal(signal.SIGKILL)
    return child.wait() == -signal.SIGKILL


@pytest.mark.parametrize("ema", [0.9, 0.0])
@pytest.mark.parametrize("step", [3, 7, 33, 59])
def test_interrupted_by_hand_and_resumed_equals_uninterrupted(step: int, ema: float, tmp_path: Path) -> None:
    """Ctrl-C before the first checkpoint, at one, between two, and on the last step; with and without the moving average."""
    def interrupt(event: Mapping[str, Any]) -> None:
        if event["step"] == step:
            raise KeyboardInterrupt

    how = replace(HOW, ema=ema)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "broken", how, tell=interrupt)
    assert learn(tmp_path / "broken", how)[0] == learn(tmp_path / "whole", how)[0]


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    first, curve = learn(tmp_path)
    again, same = learn(tmp_path, pause=10.0)
    assert first == again and curve == same


def test_a_checkpoint_of_another_schedule_is_refused(tmp_path: Path) -> None:
    learn(tmp_path)
    with pytest.raises(HarnessError, match="another schedule .*delete it, or name another folder"):
        learn(tmp_path, replace(HOW, learning_rate=0.01))


def test_a_loss_that_is_not_a_number_stops_with_the_last_checkpoint_kept(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="loss became nan at step 40 of tiny; the checkpoint of step 35 stands"):
        learn(tmp_path / "nan", wrong_at=40)
    assert learn(tmp_path / "nan")[0] == learn(tmp_path / "fine")[0]


@pytest.mark.parametrize("changes", [{"steps": 0}, {"batch": 0}, {"ema": 1.0}, {"ema": -0.1}, {"checkpoint_every": 0}])
def test_a_schedule_that_makes_no_sense_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(HarnessError, match="a schedule needs"):
        replace(HOW, **changes)


def test_the_rate_warms_up_and_falls_to_two_percent() -> None:
    how = Schedule(steps=1000, batch=1, learning_rate=1.0, warmup=100)
    assert how.rate(0) == pytest.approx(0.01) and how.rate(99) == pytest.approx(1.0) and how.rate(1000) == pytest.approx(0.02)
    assert all(how.rate(i) >= how.rate(i + 1) for i in range(100, 1000))


# --- the tokenizer ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> object:
    return build_unet.clip_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_the_pipelines_tokens_are_open_clips(text: str, tokenizer: object) -> None:
    ours = tokenizer([text], padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert ours.tolist() == TOKENIZER([text]).tolist() and ours.shape == (1, build_clip.CONTEXT)


def test_an_exclamation_mark_is_padding_as_in_stable_diffusion_2(tokenizer: object) -> None:
    """The one known difference: open_clip pads with id 0, which is "!", and transformers reads a padding token wherever it stands."""
    assert tokenizer(["wow!"]).input_ids[0][-2] == 0 and TOKENIZER.encode("wow!")[-1] == 256
    words = [*(w for table in WORDS.values() for ws in table.values() for w in ws), *captions.FRAMES, *captions.NOUNS]
    assert not [w for w in words if "!" in w]


def test_a_saved_tokenizer_says_the_same(tokenizer: object, tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    said = loaded(TEXTS[:8], padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert said.tolist() == TOKENIZER(TEXTS[:8]).tolist()


# --- CLIP's text tower, twice -----------------------------------------------------------------------------------------


def test_the_text_encoder_is_the_open_clip_text_tower() -> None:
    """Every token's last hidden state, not only the pooled one: the denoiser reads them all. The largest difference is 0."""
    torch.manual_seed(3)
    model = open_clip.CLIP(**build_clip.SHAPE).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases start at 0 and norms at 1: swapped ones would not be seen
            parameter.add_(0.02 * torch.randn(parameter.shape))
        tokens = TOKENIZER(TEXTS[:9])
        theirs = build_clip.text_encoder(model)(tokens).last_hidden_state
        x = model.token_embedding(tokens) + model.positional_embedding
        ours = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
        end = ours[torch.arange(len(tokens)), tokens.argmax(-1)] @ model.text_projection
        assert torch.allclose(end, model.encode_text(tokens), atol=1e-6)
    assert float((theirs - ours).abs().max()) == 0.0


# --- the autoencoder --------------------------------------------------------------------------------------------------


def test_standardised_latents_have_mean_0_and_deviation_1_and_pictures_stay() -> None:
    from diffusers import AutoencoderKL

    torch.manual_seed(4)
    vae = AutoencoderKL(**build_vae.SHAPE).eval()
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (12, 3, 64, 64), dtype=torch.uint8, generator=generator)
    x = images.float() / 127.5 - 1
    with torch.no_grad():
        before = vae.encode(x).latent_dist
        assert before.mean.mean((0, 2, 3)).abs().max() > 0.02 or (before.mean.std((0, 2, 3)) - 1).abs().max() > 0.1
        picture = vae.decode(before.mean).sample
        build_vae.standardise(vae, images)
        after = vae.encode(x).latent_dist
        assert after.mean.mean((0, 2, 3)).abs().max() < 1e-4 and (after.mean.std((0, 2, 3)) - 1).abs().max() < 1e-4
        assert torch.allclose(vae.decode(after.mean).sample, picture, atol=1e-4)
        # the posterior's width scales with its mean, so that sampled latents decode as before too
        ratio = (after.std / before.std).mean((0, 2, 3)) * before.mean.std((0, 2, 3))
        assert torch.allclose(ratio, torch.ones_like(ratio), atol=1e-3)
    assert vae.config.scaling_factor == 1.0


# --- captions fit the encoder -----------------------------------------------------------------------------------------

KNOWN = {"skin": "dark", "glasses": "glasses", "facial_hair": "beard", "hair_colour": "red", "hair_length": "long", "expression": "smiling",
         "covering": "none", "clothing": "a checkered shirt"}
WORDS = {"skin": captions.SKIN, "glasses": captions.GLASSES, "facial_hair": captions.FACIAL_HAIR, "expression": captions.EXPRESSION,
         "covering": captions.COVERING}
ATTRIBUTES = st.fixed_dictionaries({a: st.sampled_from([*words, UNKNOWN]) for a, words in WORDS.items()} | {"clothing": st.just("a checkered shirt")}
                                   | {"hair_colour": st.just("orange"), "hair_length": st.sampled_from(["long", "bald"])})


def tokens(text: str) -> int:
    return len(TOKENIZER.encode(text)) + 2


@given(ATTRIBUTES, st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_captions_fit_the_context_of_the_text_encoder(attributes: dict[str, str], seed: int) -> None:
    """The longest, where everything known is said: one that does not fit loses its end, which may be the artist."""
    known = {a: v for a, v in attributes.items() if v != UNKNOWN}
    texts = [captions.caption(attributes, "artist-98", random.Random(seed), "musician", captions.KEEP_ALL), captions.prompt("artist-98", "musician", **known)]
    assert max(map(tokens, texts)) <= build_clip.CONTEXT


def test_the_longest_words_of_all_fit_together() -> None:
    longest = {name: max(table, key=lambda v: max(tokens(w) for w in table[v])) for name, table in WORDS.items()}
    texts = [captions.caption(KNOWN | longest, "artist-98", random.Random(i), "musician", captions.KEEP_ALL) for i in range(200)]
    assert max(map(tokens, texts)) <= build_clip.CONTEXT
