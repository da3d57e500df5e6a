"""Rare tokens: from the tokenizer itself, one piece each, with how rare they are and what the model makes of them."""

from __future__ import annotations

import argparse
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from PIL import Image

from harness import models
from harness.errors import HarnessError
from harness.finetune import tokens, tokens_cli


@pytest.fixture(scope="module")
def known() -> SimpleNamespace:
    """A pipeline of which only the tokenizer is asked: the miniature's, which is CLIP's own."""
    from transformers import CLIPTokenizer

    return SimpleNamespace(tokenizer=CLIPTokenizer.from_pretrained(models.MINIATURE / "pipeline" / "tokenizer"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.sd(tmp_path_factory.mktemp("tokens") / "sd")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> object:
    return models.load_pipeline(str(folder), device="cpu")


def test_proposals_are_rare_single_and_no_words(known: SimpleNamespace) -> None:
    found = tokens.propose(known, 20)
    assert len({token.text for token in found}) == 20
    for token in found:
        assert re.fullmatch("[a-z]{3,4}", token.text) and not set(token.text) & set("aeiouy")
        assert known.tokenizer(f"a {token.text} person", add_special_tokens=False).input_ids[1] == token.id
        assert token.merge > 0.9 * token.merges and token.rank <= token.candidates / 10
        assert f"{token.merge:,} of {token.merges:,}" in token.says
    assert [token.rank for token in found] == sorted(token.rank for token in found)


def test_the_merge_is_the_tokenizers_own_count(known: SimpleNamespace) -> None:
    # CLIP numbers its tokens by merge, after 256 bytes and the same 256 at the end of a word
    assert all(token.id == token.merge - 1 + 512 for token in tokens.propose(known, 5))


def test_a_proposal_stands_in_no_other_entry(known: SimpleNamespace) -> None:
    entries = list(known.tokenizer.get_vocab())
    for token in tokens.propose(known, 10):
        assert [entry for entry in entries if token.text in entry.lower()] == [f"{token.text}</w>"]


def test_the_seed_decides(known: SimpleNamespace) -> None:
    assert tokens.propose(known, 5) == tokens.propose(known, 5, seed=0) != tokens.propose(known, 5, seed=1)


def test_sdxl_asks_both_tokenizers(known: SimpleNamespace) -> None:
    from tiny import tokenizer

    with pytest.raises(HarnessError, match="0 rare tokens"):
        tokens.propose(SimpleNamespace(tokenizer=known.tokenizer, tokenizer_2=tokenizer()))
    both = SimpleNamespace(tokenizer=known.tokenizer, tokenizer_2=known.tokenizer)
    assert tokens.propose(both) == tokens.propose(known) and len(tokens.check(both, "shld")) == 2


def test_a_rare_token_passes_in_silence(known: SimpleNamespace) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [tokens.check(known, token.text) for token in tokens.propose(known)] == [[token.id] for token in tokens.propose(known)]


@pytest.mark.parametrize(("token", "parts"), [("artist-07", "'artist', '-', '0', '7'"), ("zwx", "'z', 'wx'"), ("sks person", "'sks', 'person'"), ("你好", "into")])
def test_a_split_token_is_refused_with_its_parts_and_a_proposal(known: SimpleNamespace, token: str, parts: str) -> None:
    with pytest.raises(HarnessError, match=parts) as error:
        tokens.check(known, token)
    offered = re.search(r"A rare one is '(\w+)'", str(error.value)).group(1)
    assert tokens.check(known, offered)


@pytest.mark.parametrize("token", ["person", "the", "x", "smile", "Woman"])
def test_a_common_word_is_warned_of(known: SimpleNamespace, token: str) -> None:
    with pytest.warns(UserWarning, match="common"):
        assert len(tokens.check(known, token)) == 1


@pytest.mark.parametrize("token", ["", " sks", "sks "])
def test_blanks_are_refused(known: SimpleNamespace, token: str) -> None:
    with pytest.raises(HarnessError, match="blanks"):
        tokens.check(known, token)


def test_a_tokenizer_without_rare_tokens_or_merges(pipe: object) -> None:
    with pytest.raises(HarnessError, match="0 rare tokens.*textual inversion"):
        tokens.propose(pipe)
    with pytest.raises(HarnessError, match="no byte-pair merges"):
        tokens.propose(SimpleNamespace(tokenizer=object()))


def test_what_the_model_draws_for_it(pipe: object) -> None:
    seen: list[str] = []
    real, pipe_type = type(pipe).encode_prompt, type(pipe)
    alone = tokens.drawn(pipe, "", "man", [3, 4, 5, 6, 7], steps=2)
    try:
        pipe_type.encode_prompt = lambda self, prompt, *a, **k: seen.append(prompt) or real(self, prompt, *a, **k)
        with_token = tokens.drawn(pipe, "the", "man", [3, 4, 5, 6, 7], steps=2)
    finally:
        pipe_type.encode_prompt = real
    assert alone.shape == (5, 16, 16, 3) and alone.dtype == np.uint8 and not np.array_equal(alone, with_token)
    assert {prompt for prompts in seen for prompt in prompts} == {"a the man"}
    assert np.abs(with_token[1].astype(int) - tokens.drawn(pipe, "the", "man", [4], steps=2)[0]).max() <= 1  # a batch changes the last bits
    with pytest.raises(HarnessError, match="seed"):
        tokens.drawn(pipe, "the", "man", [])


def test_the_sheet_has_a_column_a_token_and_a_distance(pipe: object) -> None:
    picture, moved = tokens.sheet(pipe, ["the", "the", "in"], "man", [0, 1], steps=2)
    assert list(moved) == ["the", "in"] and all(distance > 0 for distance in moved.values())
    assert picture.width > 3 * 96 and isinstance(picture, Image.Image)


def cli(*words: str) -> int:
    parser = argparse.ArgumentParser()
    tokens_cli.add_arguments(parser)
    return tokens_cli.main(parser.parse_args(words))


def test_the_command_checks_and_draws(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.warns(UserWarning, match="common"):
        assert cli("the", "--model", str(folder), "--noun", "man", "--pictures", "1", "--out", str(tmp_path / "sheet.png")) == 0
    said = capsys.readouterr().out
    assert "the: one token" in said and "moves the pictures" in said
    assert Image.open(tmp_path / "sheet.png").size[0] > 2 * 96


def test_the_command_proposes(monkeypatch: pytest.MonkeyPatch, known: SimpleNamespace, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(models, "load_pipeline", lambda name: known)
    assert cli("-n", "3", "--pictures", "0") == 0
    assert capsys.readouterr().out.splitlines() == [token.says for token in tokens.propose(known, 3)]
    with pytest.raises(HarnessError, match="pictures"):
        cli("--pictures", "-1")
