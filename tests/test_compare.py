"""Comparing two runs: planted differences are found, planted noise is called noise, and the page stands alone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import made_run
import numpy as np
import pandas as pd
import pytest
import test_page

from harness import cli, stats
from harness.audit import copies as copying, representation as showing
from harness.errors import HarnessError
from harness.images import read_table
from harness.compare import compare, page, paired
from harness.runs import manifest, rows
from test_page import browser  # noqa: F401

KEYS = made_run.asked(16, 2)


def by_prompt(seed: int, n: int = len(KEYS)) -> np.ndarray:
    """Values with a large part shared within each prompt, two pictures a prompt."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.normal(0, 0.2, n // 2), 2) + rng.normal(0, 0.01, n)


def run_of(parent: Path, number: int, value: np.ndarray, keys: list = KEYS, shade: int = 0, **changes: object) -> Path:
    table = made_run.values("style", "artist-21", keys, lambda i: float(value[i]))
    return made_run.make(parent, number, [table], [made_run.finding("style", "artist-21", table)], keys, shade=shade, **changes)


def contrast(parent: Path, a: np.ndarray, b: np.ndarray, keys: list = KEYS) -> paired.Contrast:
    (found,) = compare.compare(*(compare.read(run_of(parent, i, v, keys)) for i, v in enumerate((a, b), 1))).contrasts
    return found


# --- differences ------------------------------------------------------------------------------------------------------


def test_a_planted_difference_is_found_although_each_runs_own_interval_is_far_wider(tmp_path: Path) -> None:
    a = by_prompt(0)
    found = contrast(tmp_path, a, a + 0.03 + by_prompt(1) / 20)
    assert found.says == paired.DIFFERS and found.paired and found.pairs == len(KEYS) and found.prompts == 16
    assert found.low < 0.03 < found.high and found.high - found.low < 0.02  # unpaired: 0.2


def test_noise_is_called_noise(tmp_path: Path) -> None:
    a = by_prompt(0)
    found = contrast(tmp_path, a, a + by_prompt(1) - by_prompt(1).mean())
    assert found.says == paired.NOISE and found.low < 0 < found.high


def test_the_same_noise_in_every_picture_of_a_prompt_does_not_count_per_picture() -> None:
    """Twenty pictures of one prompt that all moved are one observation: their interval is as wide as with one picture."""
    move = np.random.default_rng(3).normal(0, 1, 12)
    prompts = [f"p{i}" for i in range(12)]
    one = paired.difference(move, np.zeros(12), prompts, list(range(12)))[0]
    many = paired.difference(np.repeat(move, 20), np.zeros(240), [p for p in prompts for _ in range(20)], list(range(240)))[0]
    assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.05)


def test_seeds_that_serve_all_prompts_are_clusters_too() -> None:
    """The noise belongs to the seeds: clustering by prompt alone would call a difference where there is none."""
    effect = np.array([0.6, -0.2, 0.7, 0.1])
    prompts, seeds = [f"p{i}" for i in range(30) for _ in effect], [str(s) for _ in range(30) for s in range(4)]
    change = np.tile(effect, 30) + np.random.default_rng(0).normal(0, 0.05, 120)
    alone = stats.paired_contrast(change, np.zeros(120), prompts)
    crossed, p, how = paired.difference(change, np.zeros(120), prompts, seeds)
    assert alone.low > 0 and crossed.low < 0 < crossed.high and p > 0.05 and "both ways" in how


def test_crossed_clusters_cover() -> None:
    """300 planted tables with noise of prompts and of seeds: at least 93 % of the 95 % intervals hold the true mean."""
    rng, held = np.random.default_rng(1), 0
    prompts, seeds = np.repeat(np.arange(12), 8), np.tile(np.arange(8), 12)
    for _ in range(300):
        x = rng.normal(0, 1, 12)[prompts] + rng.normal(0, 1, 8)[seeds] + rng.normal(0, 1, 96)
        interval, _ = paired.crossed_mean(x, prompts.astype(str), seeds.astype(str))
        held += interval.low <= 0 <= interval.high
    assert held / 300 >= 0.93


def steps(b: list[float], a: list[float], seeds: int = 2, shared: bool = False, question: str = "copies") -> paired.Contrast:
    """The contrast of two runs' values, 12 prompts or so."""
    keys = made_run.asked(len(a) // seeds, seeds, shared)
    tables = [made_run.values(question, "artist-21", keys, lambda i: float(v[i])) for v in (a, b)]
    (found,) = paired.contrasts([[made_run.finding(question, "artist-21", t)] for t in tables], tables)
    return found


def test_no_change_at_all_is_the_same_for_steps_too_and_its_interval_a_bound_and_no_zero() -> None:
    for value in ([0.0] * 24, [float(i % 3 - 1) for i in range(24)]):
        found = steps(value, value)
        assert found.estimate == 0 and found.low < -0.02 and found.high > 0.02 and found.says == paired.SAME and "No pair changed" in found.why


def test_values_that_swap_are_not_the_same() -> None:
    """All 24 change, and cancel out within each prompt, or within each prompt and each seed."""
    swap = steps([1, 0] * 12, [0, 1] * 12)
    board = [float((i // 2 + i) % 2) for i in range(24)]
    square = [float((i // 4 + i) % 2) for i in range(48)]
    crossed = steps([1 - v for v in square], square, seeds=4, shared=True)
    for found in (swap, crossed):
        assert found.says == paired.NOISE and found.low < -0.2 and found.high > 0.2 and "Every value" not in found.why
    for shared in (False, True):
        style = steps([v + 0.25 for v in board], [1.25 - v for v in board], question="style", shared=shared)
        assert style.says == paired.UNSURE and style.low is None and "how wide" in style.why


def test_all_steps_up_leave_room_for_some_that_are_not() -> None:
    for seeds, shared in ((2, False), (3, True)):
        found = steps([1.0] * 12 * seeds, [0.0] * 12 * seeds, seeds, shared)
        assert found.says == paired.DIFFERS and 0.3 < found.low < 0.9 and found.high == 1 and found.p > 0
        assert "Every pair changed" in found.why


def test_no_interval_of_steps_leaves_what_they_can_reach() -> None:
    found = steps([float(i % 2) for i in range(24)], [0.0] * 24, shared=True)
    assert -1 <= found.low and found.high == 1 and "cannot leave" in found.why
    assert found.says == paired.UNSURE and found.p is None and "Only 2 seeds do" in found.why


def test_continuous_values_that_all_move_alike_cannot_tell_how_wide() -> None:
    for shared in (False, True):
        found = steps([i / 7 + 0.5 for i in range(24)], [i / 7 for i in range(24)], shared=shared, question="style")
        assert (found.says, found.low, found.p) == (paired.UNSURE, None, None) and "how wide" in found.why


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("gain", [0.97, 0.5, 0.0])
def test_intervals_of_steps_cover(gain: float, seeds: int) -> None:
    """60 tables of 12 prompts, two seeds of their own or three that serve all: the truth lies inside at least 95 %."""
    rng, held = np.random.default_rng(4), 0
    prompts = np.repeat(np.arange(12), seeds)
    draws = np.tile(np.arange(3), 12) if seeds == 3 else np.arange(24)
    for _ in range(60):
        before = (rng.random(len(prompts)) < 0.3).astype(float) if not gain else np.zeros(len(prompts))
        now = (rng.random(len(prompts)) < (gain or 0.3)).astype(float)
        interval = paired.difference(now, before, prompts, draws)[0]
        held += interval.low <= gain <= interval.high
    assert held / 60 >= 0.95


def test_bounds_of_steps_hold_the_truth() -> None:
    """A rare step up by one or by two, 400 tables: the bounds hold its mean in at least 95 %."""
    rng, held, labels = np.random.default_rng(2), 0, [str(i) for i in range(24) for _ in range(2)]
    for _ in range(400):
        before = np.where(rng.random(48) < 0.05, -1.0, 0.0)
        now = np.where(rng.random(48) < 0.1, 1.0, before)
        found = paired._steps(now, before, labels, 0.95)
        held += found.low <= 0.1 * 1.05 <= found.high
    assert held / 400 >= 0.95


def test_identical_values_are_called_the_same(tmp_path: Path) -> None:
    assert contrast(tmp_path, by_prompt(0), by_prompt(0)).says == paired.SAME


def test_few_prompts_cannot_tell(tmp_path: Path) -> None:
    keys = made_run.asked(9, 2)
    found = contrast(tmp_path, np.zeros(18), 1 + np.arange(18) / 100, keys)
    assert found.says == paired.UNSURE and "Only 9 prompts" in found.why


def test_only_the_shared_pairs_count(tmp_path: Path) -> None:
    a = compare.read(run_of(tmp_path, 1, np.zeros(32)))
    b = compare.read(run_of(tmp_path, 2, np.r_[np.full(24, 0.5) + np.arange(24) / 100, np.full(16, 9.0)], made_run.asked(12, 2) + [(f"other {i}", i) for i in range(16)]))
    (found,) = compare.compare(a, b).contrasts
    assert found.pairs == 24 and found.prompts == 12 and "24 shared pairs of 32 in A and 40 in B" in found.why
    assert found.estimate == pytest.approx(0.5 + np.arange(24).mean() / 100)


def test_many_findings_are_adjusted_together() -> None:
    """Twenty findings of pure noise: without the adjustment one of them is usually `different`."""
    rng, told = np.random.default_rng(5), 0
    for trial in range(15):
        tables = [[made_run.values("style", f"artist-{s}", KEYS, lambda i: float(rng.normal())) for s in range(20)] for _ in "ab"]
        findings = [[made_run.finding("style", f"artist-{s}", t) for s, t in enumerate(side)] for side in tables]
        told += any(c.says == paired.DIFFERS for c in paired.contrasts(findings, [pd.concat(side) for side in tables]))
    assert told <= 3


# --- unpaired ---------------------------------------------------------------------------------------------------------


def test_a_finding_without_rows_is_compared_by_its_interval_and_marked() -> None:
    table = made_run.values("corrected", "skin", KEYS, lambda i: 0.0)
    one = made_run.finding("corrected", "skin", table, low=-0.05, high=0.05)
    other = one.but(estimate=0.2, low=0.15, high=0.25)
    none = pd.DataFrame(columns=rows.COLUMNS)
    (found,) = paired.contrasts([[one], [other]], [none, none])
    assert not found.paired and found.says == paired.DIFFERS and found.why.startswith("Unpaired") and found.p < 0.001
    assert found.high - found.low == pytest.approx(2 * np.hypot(0.05, 0.05))
    (near,) = paired.contrasts([[one], [one.but(estimate=0.04)]], [none, none])
    assert near.says == paired.NOISE


def test_unpaired_findings_are_adjusted_with_the_others() -> None:
    """One of 40 whose two intervals just miss each other: alone it differs, among 40 it does not."""
    table, none = made_run.values("corrected", "skin", made_run.asked(20, 2), lambda i: 0.0), pd.DataFrame(columns=rows.COLUMNS)
    one = [made_run.finding("corrected", f"s{i}", table, low=-0.05, high=0.05) for i in range(40)]
    other = [one[0].but(estimate=0.08, low=0.03, high=0.13), *one[1:]]
    assert paired.contrasts([one[:1], other[:1]], [none, none])[0].says == paired.DIFFERS
    found = paired.contrasts([one, other], [none, none])
    assert {c.says for c in found} == {paired.NOISE} and found[0].p > 0.05


def test_a_p_is_never_a_plain_zero_and_a_level_is_not_rounded(tmp_path: Path) -> None:
    sides = [compare.read(run_of(tmp_path, i, by_prompt(0) + i + by_prompt(i) / 20, made_run.asked(16, 2))) for i in (1, 2)]
    told = compare.text(compare.compare(*sides, level=0.999))
    assert "99.9% interval" in told and "<0.001" in told and " 0.000 " not in told


def test_rows_whose_mean_is_not_the_estimate_are_not_used_for_pairs() -> None:
    table = made_run.values("copies", "x", KEYS, lambda i: 1.0)
    one = made_run.finding("copies", "x", table)
    (found,) = paired.contrasts([[one], [one.but(estimate=0.95)]], [table, table])
    assert not found.paired and "not the mean" in found.why


def test_other_seeds_share_no_pair(tmp_path: Path) -> None:
    a = compare.read(run_of(tmp_path, 1, by_prompt(0)))
    b = compare.read(run_of(tmp_path, 2, by_prompt(0), [(p, s + 7000) for p, s in KEYS]))
    (found,) = compare.compare(a, b).contrasts
    assert not found.paired and "no prompt and seed is shared" in found.why


def test_intervals_of_different_levels_are_not_mixed() -> None:
    table = made_run.values("corrected", "skin", KEYS, lambda i: 0.0)
    one, none = made_run.finding("corrected", "skin", table), pd.DataFrame(columns=rows.COLUMNS)
    (found,) = paired.contrasts([[one], [one.but(level=0.9)]], [none, none])
    assert found.says == paired.UNSURE and found.low is None


def test_two_artists_are_named_and_a_finding_without_a_partner_is_told(tmp_path: Path) -> None:
    t21, t22 = (made_run.values("style", s, KEYS, lambda i: i / 10) for s in ("artist-21", "artist-22"))
    extra = made_run.values("exposure", "a detector", KEYS, lambda i: 0.0)
    a = made_run.make(tmp_path, 1, [t21, extra], [made_run.finding("style", "artist-21", t21), made_run.finding("exposure", "a detector", extra)], KEYS)
    b = made_run.make(tmp_path, 2, [t22], [made_run.finding("style", "artist-22", t22), stats.cannot_tell("copies", "artist-22", "no works")], KEYS)
    told = compare.compare(compare.read(a), compare.read(b))
    assert [c.subject for c in told.contrasts] == ["artist-21 → artist-22"]
    assert "Only A has a finding on exposure: a detector." in told.cautions and "Only B has a finding on copies: artist-22." in told.cautions


def test_a_finding_without_a_number_cannot_be_told() -> None:
    none = pd.DataFrame(columns=rows.COLUMNS)
    lacking = stats.cannot_tell("exposure", "no detector", "not installed")
    (found,) = paired.contrasts([[lacking], [lacking]], [none, none])
    assert found.says == paired.UNSURE and found.estimate is None


# --- rows of the scorers ----------------------------------------------------------------------------------------------


def scored(attribute: str, labels: list[str], keys: list[tuple[str, int]]) -> pd.DataFrame:
    return pd.DataFrame(keys, columns=["prompt", "seed"]).assign(attribute=attribute, label=labels, weights_sha256="f" * 64)


def test_the_mean_of_each_scorers_rows_is_its_finding(tmp_path: Path) -> None:
    keys, rng = made_run.asked(12, 2), np.random.default_rng(0)
    table = pd.DataFrame(keys, columns=["prompt", "seed"])
    near = pd.concat([table.assign(group="output", file=[f"{i}.png" for i in range(24)], score=rng.normal(1.5, 1, 24), weights_sha256="f" * 64),
                      pd.DataFrame({"group": "held out", "file": [f"h{i}" for i in range(40)], "score": rng.normal(0, 1, 40)})], ignore_index=True)
    flagged = copying.finding(near, "artist-21")
    assert 0 < flagged.estimate < 1 and near["seed"].dtype == float
    sides = [pd.concat([scored(a.name, rng.choice([*a.classes, showing.UNREAD], 24, p=[0.9 / len(a.classes)] * len(a.classes) + [0.1]).tolist(), keys)
                        for a in showing.ATTRIBUTES], ignore_index=True) for _ in "ab"]
    changes = showing.findings(*sides)
    rows.write(tmp_path, [rows.copies(near, "artist-21"), rows.representation(*sides)], [flagged, *changes])
    read = rows.read(tmp_path)
    assert set(read["seed"]) == {seed for _, seed in keys} and read["seed"].dtype == int
    for found in [flagged, *changes]:
        mine = read[(read["question"] == found.question) & (read["subject"] == found.subject)]
        assert len(mine) == found.n and mine["value"].mean() == pytest.approx(found.estimate)


def test_rows_that_do_not_fit_their_findings_are_refused(tmp_path: Path) -> None:
    table = made_run.values("style", "artist-21", KEYS, lambda i: 1.0)
    with pytest.raises(HarnessError, match="the mean of the rows of style"):
        rows.write(tmp_path, [table], [made_run.finding("style", "artist-21", table).but(estimate=0.95)])
    with pytest.raises(HarnessError, match="no finding"):
        rows.write(tmp_path, [table], [])
    with pytest.raises(HarnessError, match="twice"):
        rows.write(tmp_path, [pd.concat([table, table.head(1)])], [made_run.finding("style", "artist-21", table)])
    assert not (tmp_path / rows.NAME).exists()


def test_findings_come_back_as_they_were(tmp_path: Path) -> None:
    table = made_run.values("style", "07", KEYS, lambda i: i / 7)
    wrote = [made_run.finding("style", "07", table), stats.cannot_tell("exposure", "no detector", "null")]
    folder = made_run.make(tmp_path, 1, [table], wrote, KEYS)
    assert rows.findings(folder) == wrote


def test_samples_name_every_picture_by_its_place_in_the_run(tmp_path: Path) -> None:
    folder = run_of(tmp_path, 1, by_prompt(0))
    table = read_table(folder / rows.SAMPLES)
    assert len(table) == 64 and table["file"].iloc[-1] == "tuned/00031.png" and set(table["group"]) == {"base", "tuned"}
    with pytest.raises(HarnessError, match="outside"):
        rows.samples(tmp_path / "elsewhere", compare.read(folder).pictures)


# --- settings, terminal, page -----------------------------------------------------------------------------------------


def test_settings_that_differ_come_in_the_order_of_who_set_them(tmp_path: Path) -> None:
    a, b = (manifest.read(run_of(tmp_path, i, by_prompt(0), parameters={"steps": s})) for i, s in ((1, 200), (2, 300)))
    b["identity"]["packages"] = b["identity"]["packages"] | {"diffusers": "0.42.2"}
    b["identity"]["code"] = {"harness/stats.py": "0" * 64}
    b["inputs"] = [{"parameter": "works", "name": "mine", "sha256": "1" * 64, "card": None, "licence": None}]
    found = [(s.kind, s.name, s.a, s.b) for s in compare.settings(a, b)]
    assert found == [("parameter", "number", "1", "2"), ("parameter", "steps", "200", "300"), ("input", "works=mine", "none", "1" * 12 + "…"),
                     ("package", "diffusers", "0.42.1", "0.42.2"), ("code", "harness/stats.py", "b" * 12 + "…", "0" * 12 + "…")]


class Page(HTMLParser):
    """Tags, addresses and picture texts of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.addresses, self.texts = [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect."""
        held = dict(attrs)
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        self.texts += [held.get("alt") or ""] if tag == "img" else []


def test_the_command_prints_a_table_and_writes_a_page_that_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path))
    a = run_of(tmp_path, 1, by_prompt(0))
    b = run_of(tmp_path, 2, by_prompt(0) + 0.5 + by_prompt(1) / 20, shade=9, parameters={"steps": 300})
    assert cli.main(["compare", a.name, b.name, "--images", "5"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"parameter steps +200 +300", told) and re.search(r"style: artist-21 .* differs", told)
    assert told.index("parameter steps") < told.index("style: artist-21")
    out = tmp_path / f"compare-{a.name}-{b.name}.html"
    assert str(out) in told
    found = Page(out)
    assert not {"script", "link", "iframe", "object", "form"} & set(found.tags)
    assert found.addresses and all(address.startswith("data:image/") for address in found.addresses)
    assert found.tags.count("img") == 10 and all("seed" in text and "Run " in text for text in found.texts)
    assert read_table(b / rows.SAMPLES)["sha256"].iloc[32] in out.read_text(), "a withdrawal must find the page by the pictures' hashes"
    assert "All 32 pictures are the same in both runs" in out.read_text() and str(tmp_path) not in out.read_text()


def test_what_a_prompt_says_stays_text(tmp_path: Path) -> None:
    keys = [(f"<script>alert({i})</script>\"'", i) for i in range(12)]
    sides = [compare.read(run_of(tmp_path, i, np.arange(12) * i, keys, shade=i, parameters={"model": "<b>x</b>" * i})) for i in (1, 2)]
    found = Page(page.write(compare.compare(*sides), tmp_path / "page.html"))
    assert "script" not in found.tags and "b" not in found.tags and any("<script>" in text for text in found.texts)


def test_pictures_that_went_since_do_not_hinder_the_findings(tmp_path: Path) -> None:
    a, b = run_of(tmp_path, 1, by_prompt(0)), run_of(tmp_path, 2, by_prompt(1), shade=3)
    (b / "tuned" / "00003.png").unlink()
    told = compare.compare(compare.read(a), compare.read(b))
    assert len(told.contrasts) == 1 and any("No pictures of B" in c and "00003.png" in c for c in told.cautions)
    assert "img" not in Page(page.write(told, tmp_path / "page.html")).tags


def test_findings_edited_after_the_run_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a, b = run_of(tmp_path, 1, by_prompt(0)), run_of(tmp_path, 2, by_prompt(1))
    table = pd.read_csv(a / "findings.csv")
    table.assign(estimate=9.0, low=8.0, high=10.0).to_csv(a / "findings.csv", index=False)
    assert cli.main(["compare", str(a), str(b)]) == 2
    told = capsys.readouterr()
    assert "findings.csv was changed after the run" in told.err and "9.000" not in told.out


@pytest.mark.parametrize("lost", ["gone", "never written"])
def test_without_findings_settings_and_pictures_are_compared(tmp_path: Path, lost: str) -> None:
    a, b = run_of(tmp_path, 1, by_prompt(0)), run_of(tmp_path, 2, by_prompt(0), shade=9)
    (a / rows.FINDINGS).unlink()
    if lost == "never written":
        held = json.loads((a / manifest.NAME).read_text())
        held["outputs"].pop(rows.FINDINGS)
        (a / manifest.NAME).write_text(json.dumps(held))
    told = compare.compare(compare.read(a), compare.read(b))
    assert "number" in compare.text(told) and "no finding stands in both runs" in compare.text(told)
    assert f"No findings of A: it{'s findings.csv is gone' if lost == 'gone' else ' wrote no findings.csv'}." in told.cautions
    assert "img" in Page(page.write(told, tmp_path / "page.html")).tags


def test_what_cannot_be_compared_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path))
    a, b = run_of(tmp_path, 1, by_prompt(0)), run_of(tmp_path, 2, by_prompt(0), status=manifest.RUNNING)
    c = run_of(tmp_path, 3, by_prompt(0))
    (c / "findings.csv").write_text("question,subject\nstyle,x\n")
    bad = [(a, a), (a, b), (a, c), (a, tmp_path / "nothing"), (tmp_path / "nothing", a)]
    for one, other in bad:
        assert cli.main(["compare", str(one), str(other)]) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith("error: ") and len(said.splitlines()) == 1
    assert cli.main(["compare", str(a), str(b), "--level", "2"]) == 2
    assert not list(tmp_path.glob("compare-*"))


def test_secrets_in_a_manifest_do_not_reach_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hf_" + "Ab3" * 12
    monkeypatch.setenv("MY_TOKEN", secret)
    sides = [run_of(tmp_path, i, by_prompt(0), shade=i) for i in (1, 2)]
    for i, folder in enumerate(sides):  # past `manifest.write`, which would mask it
        found = json.loads((folder / manifest.NAME).read_text())
        found["parameters"]["resolved"]["model"] = f"{secret}{i}"
        (folder / manifest.NAME).write_text(json.dumps(found))
    told = compare.compare(*map(compare.read, sides))
    assert secret not in compare.text(told) and secret not in page.write(told, tmp_path / "page.html").read_text()


# --- in a browser -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(test_page.CHROMIUM is None, reason="no chromium on this machine; the page was not opened in a browser")
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_and_axe_find_nothing_wrong(tmp_path: Path, browser: object, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed; accessibility was not checked")
    sides = [compare.read(run_of(tmp_path, i, by_prompt(i), shade=i, parameters={"steps": i, "model": "a" * 70})) for i in (1, 2)]
    opened, trouble = test_page.visit(browser, page.write(compare.compare(*sides), tmp_path / "page.html"), width, scripts=True)
    assert trouble == [] and opened.evaluate(test_page.CUT_OFF) == []
    assert all(picture.evaluate("e => e.complete && e.naturalWidth") for picture in opened.locator("img").all())
    found = axe.Axe().run(opened).response
    assert [(v["id"], v["nodes"][0]["html"][:120]) for v in found["violations"]] == []
    opened.context.close()
