"""Our fine-tuning beside the scripts that everyone copies: the time of a step, a whole run, the weights, a resume, memory.

The peer is diffusers' `examples/dreambooth/train_dreambooth.py` and `train_dreambooth_lora.py`, in a git checkout that is named on
the command line; its commit stands in the table, its text nowhere here. Both sides train the same model of random weights on five
photos of 12 megapixels: same resolution, batch, optimiser, learning rate and number of steps, one thread, run in turn, pair after
pair. Times include everything from the first line of the script, imports apart, to the last file written; ours with the cache
built in it. On a GPU the same is done at the shapes of Stable Diffusion 1.5.

    git clone https://github.com/huggingface/diffusers
    python benchmarks/finetune.py --peer diffusers [--pairs 5] [--steps 16] [--class-images 8] [--only cpu] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import finetune_runs as runs
import pandas as pd

from harness import provenance
from harness.finetune.prior import BLOCK
from harness.images import atomic_write, sha256, write_csv

PEER = "DIFFUSERS_CHECKOUT"
"""environment variable that names the peer's checkout"""
RATIO = (0.41, 0.51)
"""encoding a picture over a training step, in operations: 0.46 as in Stable Diffusion 1.5, give or take 0.05"""
RATES = {"full": 5e-6, "lora": 5e-4}
"""the scripts' own learning rates"""
RANK = {"full": {}, "lora": {"rank": 4}}
"""the LoRA script's own rank"""
EARLY = {"pre_compute_text_embeddings": True}
FLAGS = {"full": [{**EARLY, "set_grads_to_none": True, "dataloader_num_workers": n} for n in (0, 1, 2)],
         "lora": [{**EARLY, "dataloader_num_workers": n} for n in (0, 1, 2)]}
"""flags that might make a script faster and leave its arithmetic as it is; the fastest of them are its best"""
PROBE, EXACT, KEEP, DIE = 11, 10, 4, 7
"""steps of a run that tries flags, and of one whose weights are compared; it saves after every KEEP, and is killed after DIE"""
UNET = "unet/diffusion_pytorch_model.safetensors"
WEIGHTS = {"full": f"pipeline/{UNET}", "lora": "pytorch_lora_weights.safetensors"}
MEMORY_GOAL = 9.9e9


@dataclass(frozen=True)
class Lab:
    """Where things lie, and how both sides are run."""

    work: Path
    """folder for everything that is made"""
    checkout: Path
    """the peer's repository"""
    shape: runs.Shape
    """the model"""
    mixed: str = "no"
    """no or bf16"""
    gpu: bool = False
    """run on the GPU"""

    def peer(self, kind: str, name: str, steps: int, photos: str = "photos", drawn: Path | None = None, **flags: Any) -> runs.Run:
        """The peer's script for `kind`, its output in `name`."""
        arguments = {"pretrained_model_name_or_path": self.work / "model", "instance_data_dir": self.work / photos, "instance_prompt": runs.PROMPT,
                     "output_dir": self.work / name, "resolution": self.shape.pixels, "train_batch_size": 1, "learning_rate": RATES[kind],
                     "lr_scheduler": "constant", "lr_warmup_steps": 0, "max_train_steps": steps, "mixed_precision": self.mixed, "seed": 0}
        script = self.checkout / runs.SCRIPTS[kind]
        return self._told(name, runs.apart(self.log(name), runs.peer, script, arguments | RANK[kind] | flags, drawn, gpu=self.gpu))

    def ours(self, kind: str, name: str, steps: int, kept: str, photos: str = "photos", drawn: Path | None = None, die_at: int = 0,
             **settings: Any) -> runs.Run | None:
        """Our recipe `kind` on the same work, its output in `name`, its cache in `kept`."""
        given = {"steps": steps, "batch_size": 1, "learning_rate": RATES[kind], "schedule": "constant", "warmup": 0, "caption_dropout": 0.0,
                 "weight_decay": 1e-2, "resolution": self.shape.pixels, "mixed_precision": self.mixed, "checkpoint_every": steps}
        found = runs.apart(self.log(name), runs.ours, kind, self.work / "model", self.work / photos, self.work / name, self.work / kept,
                           given | RANK[kind] | settings, drawn, die_at, gpu=self.gpu, dies=bool(die_at))
        return self._told(name, found)

    def log(self, name: str) -> Path:
        """Where a run says what it says."""
        return self.work / f"{name}.log"

    def _told(self, name: str, run: runs.Run | None) -> runs.Run | None:
        if run:
            print(f"{time.strftime('%H:%M:%S')} {name}: {run.seconds:.1f} s, a step {run.step:.3f} s, {run.memory / 1e6:,.0f} MB", flush=True)
        return run

    def made(self) -> dict[str, float]:
        """Make the model and the photos of two subjects; gives back the model's operations, and seconds to read a photo."""
        counts = runs.apart(self.log("model"), runs.build, self.shape, self.work / "model").result
        for seed, name in enumerate(("photos", "others")):
            runs.apart(self.log(name), runs.photos, self.work / name, seed)
        return counts | {"photo": reading(self.work / "photos", self.shape.pixels)}


def main() -> None:
    """Measure, write results/published/finetune.{csv,md}, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, default=os.environ.get(PEER), help=f"a git checkout of diffusers (default: ${PEER})")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each kind (default: 5)")
    parser.add_argument("--steps", type=int, default=16, help="training steps of a run without class images (default: 16)")
    parser.add_argument("--gpu-steps", type=int, default=201, help="the same on a GPU: 200 are timed (default: 201)")
    parser.add_argument("--class-images", type=int, default=8, help="class images, a multiple of 8; steps are four times as many, as in the peer's README (default: 8)")
    parser.add_argument("--only", choices=("cpu", "gpu"), help="leave the other out (default: both, where there is a GPU)")
    parser.add_argument("--work", type=Path, help="folder for models and runs, which must be empty (default: a temporary one, removed at the end)")
    parser.add_argument("--out", type=Path, default=Path("results/published"), help="folder for the table")
    args = parser.parse_args()
    if not args.peer:
        parser.error(f"name the peer: --peer FOLDER, or ${PEER}, a git checkout of diffusers")
    facts, begun = identity(args.peer), time.time()
    work = args.work or Path(tempfile.mkdtemp(prefix="finetune-"))
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    runs.preload()  # from here on there is torch, which reads these
    rows = []
    if args.only != "gpu":
        rows += processor(Lab(work / "cpu", args.peer, runs.MINIATURE), args.pairs, args.steps, args.class_images, facts)
    gpu = bool(provenance.usable_gpus()) and args.only != "cpu"
    rows += graphics(Lab(work / "gpu", args.peer, runs.SD15, "bf16", True), args.pairs, args.gpu_steps) if gpu else unmeasured()
    table = pd.DataFrame(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "finetune.csv", table)
    text = markdown(table, facts | {"pairs": args.pairs, "seconds": round(time.time() - begun)})
    atomic_write(args.out / "finetune.md", text)
    print(text)
    if not args.work:
        shutil.rmtree(work)


def identity(checkout: Path) -> dict[str, Any]:
    """Which peer this is: repository, commit, scripts and their hashes. Ends the benchmark where it is no clean git checkout."""
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(checkout), *words], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{checkout}: not a git checkout of the peer with its scripts as they were committed "
                             f"({' '.join(words)}: {done.stderr.strip()[:200]})")
        return done.stdout.strip()

    scripts = list(runs.SCRIPTS.values())
    git("diff", "--quiet", "HEAD", "--", *scripts)
    missing = [name for name in scripts if not (checkout / name).is_file()]
    if missing:
        raise SystemExit(f"{checkout}: has no {' and no '.join(missing)}; name a checkout of diffusers")
    owner, name = git("remote", "get-url", "origin").removesuffix("/").removesuffix(".git").replace(":", "/").split("/")[-2:]
    return {"repository": f"{owner}/{name}", "commit": git("rev-parse", "HEAD"), "scripts": {name: sha256(checkout / name) for name in scripts}}


# --- what is measured


def processor(lab: Lab, pairs: int, steps: int, images: int, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """All rows of the processor; what was used goes into `facts`."""
    if images % BLOCK:
        raise SystemExit(f"{images} class images are no multiple of {BLOCK}: ours are drawn {BLOCK} at a time, and the rest would be drawn for nothing")
    lab.work.mkdir(parents=True)
    made = lab.made()
    share = made["encode"] / made["step"]
    print(f"encoding over a step: {share:.3f} in operations; {made['weights'] / 1e6:.1f} M weights; a photo is read in {made['photo'] * 1000:.0f} ms", flush=True)
    if not RATIO[0] <= share <= RATIO[1]:
        raise SystemExit(f"encoding takes {share:.3f} of a step's operations, and {RATIO} is wanted")
    best = {kind: fastest(lab, kind) for kind in runs.SCRIPTS}
    facts |= {"made": made, "best": best, "steps": steps, "images": images}
    rounds = [one_round(lab, i, steps, images, best) for i in range(pairs)]
    rows = speeds(rounds, "CPU", {"full": 1.8, "best": 1.35, "lora": 2.0}) + priors(rounds, lab, images)
    return rows + equality(lab, images) + resumed(lab) + memory(rounds)


def fastest(lab: Lab, kind: str) -> dict[str, Any]:
    """The flags of FLAGS with which the script's step is shortest."""
    took = {}
    for i, flags in enumerate(FLAGS[kind]):
        took[i] = lab.peer(kind, f"flags-{kind}-{i}", PROBE, **flags).step
        shutil.rmtree(lab.work / f"flags-{kind}-{i}")
    return FLAGS[kind][min(took, key=took.get)]


def one_round(lab: Lab, i: int, steps: int, images: int, best: Mapping[str, Mapping[str, Any]]) -> dict[str, runs.Run]:
    """Every run once, in turn; with `images` those with class images too."""
    found = {}
    for kind in runs.SCRIPTS:
        found[f"{kind} peer"] = lab.peer(kind, f"{kind}-peer-{i}", steps)
        found[f"{kind} ours"] = lab.ours(kind, f"{kind}-ours-{i}", steps, f"kept-{kind}-{i}")
        found[f"{kind} best"] = lab.peer(kind, f"{kind}-best-{i}", steps, **best[kind])
    if images:
        ours = {"class_prompt": runs.CLASS_PROMPT, "class_images": images}
        found["prior peer"] = lab.peer("full", f"prior-peer-{i}", 4 * images, with_prior_preservation=True, class_data_dir=lab.work / f"class-{i}",
                                       class_prompt=runs.CLASS_PROMPT, num_class_images=images)
        found["prior ours"] = lab.ours("full", f"prior-ours-{i}", 4 * images, f"kept-prior-{i}", **ours)
        found["prior again"] = lab.ours("full", f"prior-again-{i}", 4 * images, f"kept-prior-{i}", photos="others", **ours)
    for name in [path for path in lab.work.iterdir() if path.name.endswith(f"-{i}") and not path.name.startswith(("class-", "kept-prior-"))]:
        shutil.rmtree(name)
    return found


def speeds(rounds: Sequence[Mapping[str, runs.Run]], device: str, goals: Mapping[str, float]) -> list[dict[str, Any]]:
    """Steps and whole runs of both recipes, over the script as it is and with its best flags."""
    rows = []
    for kind in runs.SCRIPTS:
        for other, goal in (("peer", goals[kind]), ("best", goals["best"] if kind == "full" else None)):
            words = "the script as its README calls it" if other == "peer" else "its best flags"
            for what, each in (("step", "step"), ("whole run, cache built in it", "seconds")):
                times = [[getattr(one[f"{kind} {side}"], each) for one in rounds] for side in (other, "ours")]
                rows.append(ratio(f"{device}: {kind} {what}, over {words}", *times, goal if each == "step" else None))
    return rows


def priors(rounds: Sequence[Mapping[str, runs.Run]], lab: Lab, images: int) -> list[dict[str, Any]]:
    """DreamBooth with class images from end to end; the last row grants the peer a folder of class images that it has already."""
    first, ours, again = ([one[f"prior {name}"].seconds for one in rounds] for name in ("peer", "ours", "again"))
    drawn = [max(path.stat().st_mtime for path in (lab.work / f"class-{i}").iterdir()) for i in range(len(rounds))]
    kept = [one["prior peer"].ended - when for one, when in zip(rounds, drawn)]
    what = f"CPU: full with {images} class images, {4 * images} steps, whole run"
    return [ratio(f"{what}, first time", first, ours, 2.0), ratio(f"{what}; another subject, our class images kept", first, again, 5.0),
            ratio(f"{what}; another subject, both sides' class images kept", kept, again)]


def equality(lab: Lab, images: int) -> list[dict[str, Any]]:
    """Largest difference of the weights when the peer is fed what our runs drew, beside how far the weights went."""
    rows = []
    prior = {"with_prior_preservation": True, "class_data_dir": lab.work / "class-0", "class_prompt": runs.CLASS_PROMPT, "num_class_images": images}
    ours = {"class_prompt": runs.CLASS_PROMPT, "class_images": images}
    for kind, words, flags, settings in (("full", "full", {}, {}), ("lora", "lora", {}, {}), ("full", "full with class images", prior, ours)):
        name = words.replace(" ", "-")
        drawn = lab.work / f"{name}.safetensors"
        lab.ours(kind, f"drawn-{name}", EXACT, "kept-prior-0", drawn=drawn, checkpoint_every=KEEP, **settings)
        lab.peer(kind, f"fed-{name}", EXACT, drawn=drawn, **flags)
        made, fed = lab.work / f"drawn-{name}" / WEIGHTS[kind], lab.work / f"fed-{name}" / (UNET if kind == "full" else WEIGHTS[kind])
        start = lab.work / "model" / UNET if kind == "full" else None
        rows.append(row(f"CPU: {words}, {EXACT} steps, weights where the peer is fed our latents, noise and levels", "largest difference",
                        None, furthest(made, fed), goal=1e-6, n=1, note="" if start is None else f"the weights went up to {furthest(made, start):.2g}"))
    return rows


def resumed(lab: Lab) -> list[dict[str, Any]]:
    """Killed and called again, as a share of the way that an undisturbed training takes; ours by SIGKILL, the peer's from its own checkpoint."""
    start = lab.work / "model" / UNET
    lab.ours("full", "killed", EXACT, "kept-killed", die_at=DIE, checkpoint_every=KEEP)
    lab.ours("full", "killed", EXACT, "kept-killed", checkpoint_every=KEEP)
    whole, again = (lab.work / name / WEIGHTS["full"] for name in ("drawn-full", "killed"))
    lab.peer("full", "straight", EXACT, checkpointing_steps=KEEP)
    shutil.copyfile(lab.work / "straight" / UNET, lab.work / "straight.safetensors")
    lab.peer("full", "straight", EXACT, checkpointing_steps=EXACT + 1, resume_from_checkpoint=f"checkpoint-{KEEP}")
    peer = away(lab.work / "straight.safetensors", lab.work / "straight" / UNET, start)
    return [row(f"CPU: full, {EXACT} steps, resumed after step {KEEP} against undisturbed", "share of the way", peer, away(whole, again, start), goal=0.0, n=1)]


def memory(rounds: Sequence[Mapping[str, runs.Run]]) -> list[dict[str, Any]]:
    """Peak resident memory of both recipes."""
    def held(kind: str, side: str) -> list[float]:
        return [one[f"{kind} {side}"].memory / 1e6 for one in rounds]

    return [ratio(f"CPU: {kind}, peak memory of the process", held(kind, "peer"), held(kind, "ours"), unit="MB") for kind in runs.SCRIPTS]


GPU_GOALS = {"full": 2.0, "best": 1.35, "lora": 2.5}
GPU_ROWS = {"full step, over the script as its README calls it": "≥ 2×", "full step, over its best flags": "≥ 1.35×", "full step, compiled": "≥ 2×",
            "lora step, over the script as its README calls it": "≥ 2.5×", "full, 8-bit Adam, gradient checkpointing, peak memory": "≤ 9.9 GB"}


def graphics(lab: Lab, pairs: int, steps: int) -> list[dict[str, Any]]:
    """All rows of a GPU: Stable Diffusion 1.5's shapes, random weights, bf16, 512 pixels."""
    lab.work.mkdir(parents=True)
    lab.made()
    best = {kind: fastest(lab, kind) for kind in runs.SCRIPTS}
    rounds, compiled = [], []
    for i in range(pairs):
        rounds.append(one_round(lab, i, steps, 0, best))
        compiled.append(lab.ours("full", f"compiled-{i}", steps, "kept-compiled", compile=True))
        shutil.rmtree(lab.work / f"compiled-{i}")
    rows = speeds(rounds, "GPU", GPU_GOALS)
    rows.append(ratio("GPU: full step, compiled", [one["full peer"].step for one in rounds], [one.step for one in compiled], 2.0))
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        return [*rows, unmeasured()[-1]]
    small = lab.ours("full", "small", steps, "kept-compiled", optimiser="adamw8bit", gradient_checkpointing=True)
    return [*rows, row("GPU: full, 8-bit Adam, gradient checkpointing, peak memory", "MB", None, small.memory / 1e6, goal=MEMORY_GOAL / 1e6, n=1)]


def unmeasured() -> list[dict[str, Any]]:
    """The rows of a GPU where there is none."""
    return [{"measured": f"GPU: {what}", "unit": "", "goal": None, "reached": "not measured", "note": f"goal {goal}; no such device here"}
            for what, goal in GPU_ROWS.items()]


# --- numbers


def reading(folder: Path, pixels: int) -> float:
    """Median seconds to decode a photo and make it small, as the scripts do at every step."""
    from PIL import Image

    took = []
    for path in sorted(folder.iterdir()):
        begun = time.perf_counter()
        Image.open(path).convert("RGB").resize((pixels * 4 // 3, pixels), Image.Resampling.BILINEAR)
        took.append(time.perf_counter() - begun)
    return statistics.median(took)


def ratio(what: str, peer: Sequence[float], ours: Sequence[float], goal: float | None = None, unit: str = "s") -> dict[str, Any]:
    """The peer's over ours: the median of the pairs' ratios, and the lowest and highest."""
    pairs = [a / b for a, b in zip(peer, ours, strict=True)]
    value = statistics.median(pairs)
    reached = "" if goal is None else "yes" if value >= goal else "no"
    return {"measured": what, "unit": unit, "peer": statistics.median(peer), "ours": statistics.median(ours), "ratio": value, "lowest": min(pairs),
            "highest": max(pairs), "n": len(pairs), "goal": goal, "reached": reached, "note": ""}


def row(what: str, unit: str, peer: float | None, ours: float, goal: float, n: int, note: str = "") -> dict[str, Any]:
    """A quantity of ours that must not be above a goal."""
    return {"measured": what, "unit": unit, "peer": peer, "ours": ours, "n": n, "goal": goal, "reached": "yes" if ours <= goal else "no", "note": note}


def furthest(one: Path, other: Path) -> float:
    """Largest difference of two files of weights; they must hold the same names."""
    first, second = _pair(one, other)
    return max(float(abs(first[name] - second[name]).max()) for name in first)


def away(one: Path, other: Path, start: Path) -> float:
    """Distance of two trainings' ends over the way that the first took from `start` (Euclidean)."""
    first, second = _pair(one, other)
    _, begin = _pair(one, start)
    apart, way = (sum(float(((first[name] - to[name]) ** 2).sum()) for name in first) for to in (second, begin))
    return (apart / way) ** 0.5


def _pair(one: Path, other: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two files of weights in double precision."""
    from safetensors.numpy import load_file

    first, second = ({name: value.astype("float64") for name, value in load_file(path).items()} for path in (one, other))
    if first.keys() != second.keys():
        raise SystemExit(f"{one} and {other} hold tensors of different names: {sorted(first.keys() ^ second.keys())[:4]}")
    return first, second


def markdown(table: pd.DataFrame, facts: Mapping[str, Any]) -> str:
    """The table with what was done to get it."""
    scripts = ", ".join(f"`{name}` (sha256 {digest[:12]}…)" for name, digest in facts["scripts"].items())
    lines = [f"Peer: {facts['repository']} at {facts['commit']}, {scripts}; diffusers {version('diffusers')}, torch {version('torch')} on both sides.", ""]
    if "made" in facts:
        made = facts["made"]
        best = "; ".join(f"{kind}: {' '.join(runs.words(flags))}" for kind, flags in facts["best"].items())
        lines += [f"CPU: U-Net of {made['weights'] / 1e6:.1f} M random weights, {runs.MINIATURE.pixels} pixels, float32, batch 1, one thread; encoding a picture takes "
                  f"{made['encode'] / made['step']:.2f} of a training step's operations (Stable Diffusion 1.5 at 512 pixels: 0.46); five photos of 12 megapixels, each read in "
                  f"{made['photo'] * 1000:.0f} ms; {facts['steps']} steps without class images; {facts['pairs']} pairs in turn, {facts['seconds'] / 60:.0f} minutes in all.", "",
                  f"The script's best flags, found by trying: {best}. A data loader's worker is a second process, on the other core.", "",
                  "With class images the peer draws with its 50 steps and keeps JPEGs, ours with 20 of DPM-Solver++ and keeps latents: the ratio is that of the recipes, "
                  "not of one computation done faster. All other rows compare the same computation.", ""]
    lines += ["| measured | peer | ours | peer / ours (lowest to highest) | goal | reached |", "|---|---|---|---|---|---|"]
    return "\n".join(lines + [_line(each) for each in table.to_dict("records")]) + "\n"


def _line(each: Mapping[str, Any]) -> str:
    """A row of the table."""
    def shown(value: Any) -> str:
        return "" if value is None or value != value else f"{value:,.0f}" if each["unit"] == "MB" else f"{value:.3g}"

    if each["reached"] == "not measured":
        return f"| {each['measured']} | | | not measured | {each['note'].split(';')[0].removeprefix('goal ')} | |"
    peer, ours = (f"{shown(each.get(side))} {each['unit'] if each['unit'] in ('s', 'MB') else ''}".strip() for side in ("peer", "ours"))
    value, goal = each.get("ratio"), shown(each["goal"])
    if value is None or value != value:
        said = "; ".join(filter(None, (each["unit"] if each["unit"] != "MB" else "", each["note"])))
        return f"| {each['measured']} | {peer if shown(each['peer']) else ''} | {ours} | {said} | ≤ {goal} | {each['reached']} |"
    return f"| {each['measured']} | {peer} | {ours} | {value:.2f}× ({each['lowest']:.2f} to {each['highest']:.2f}) | {f'≥ {goal}×' if goal else ''} | {each['reached']} |"


if __name__ == "__main__":
    main()
