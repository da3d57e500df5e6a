"""What a training cost, beside the figures that were published for the same job in 2022; and after how many steps torch.compile pays."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.finetune import fits, jobs
from harness.forecast import energy, flops, units

if TYPE_CHECKING:
    import pandas as pd
    import torch

COUNTED = "counted from the settings on the model's configuration, not measured; a multiply-add as two; class images as if all were drawn anew"


@dataclass(frozen=True)
class Public:
    """A figure that somebody published; None is what they did not say."""

    job: str
    """what was made, and by whom"""
    seconds: float | None
    """how long it took"""
    cost: float | None
    """US dollars, or what they stayed under"""
    flops: float | None
    """operations"""
    copy_bytes: float | None
    """size of what is kept for each customer"""


PUBLIC = (
    Public("a subject from twenty photos, Stable Diffusion on a rented Colab GPU, 2022", 20 * 60, 0.40, None, None),
    Public("a style from thirty-two illustrations, Stable Diffusion, 2022 (cost: under)", 2.5 * 3600, 2.00, None, None),
    Public("an avatar app's own account of one customer, 2022", 10 * 60, None, 1.2e17, 4e9),
)
COMPARED = (
    "Bytes of a copy can be compared as they are. Time and money depend on the device and on the model: compare them for the same model alone. "
    "Operations can be compared to an order of magnitude: how the app counted, and whether drawing the avatars is in it, was not published.")


def costs(manifest: Mapping[str, Any], seconds: float, folder: Path | None = None, meters: Mapping[str, Any] | None = None,
          per_hour: float | None = None, copy_bytes: int | None = None, peak_memory: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Time, operations, energy and money of a training, each with its method; what is not known is None.

    `manifest` is the adapter's; `folder` its base model's, where the name in the manifest does not lead to it; `meters` a reading of
    `energy.read()` from before; `per_hour` the price of this machine in any currency, by default `$HARNESS_PRICE_PER_HOUR`.
    """
    from harness.forecast import costs as money

    price = money.price(per_hour)
    return {
        "seconds": round(seconds, 3), "flops": _flops(manifest, folder), "energy": energy.spent(meters, seconds), "price_per_hour": price,
        "cost": None if price is None else round(seconds / 3600 * price, 6), "copy_bytes": copy_bytes, "peak_memory": dict(peak_memory or {}) or None,
        "method": "seconds: wall clock; cost: seconds times the price per hour; copy_bytes: what is kept of this training"}


def _flops(manifest: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Operations of the whole training."""
    try:
        where = folder or flops.configuration(manifest["base_model"])
        how = jobs.load(manifest["recipe"])[1](**manifest["settings"])
        return {"value": fits.operations(manifest["recipe"], how, where, len(manifest["images"])), "method": COUNTED}
    except HarnessError as unknown:
        return {"value": None, "method": f"not counted: {unknown}"}


def beside(mine: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A table of trainings (name -> `costs`) above the public figures: job, time, cost, operations, copy; "" where nothing is known."""
    import pandas as pd

    rows = [(name, found["seconds"], found["cost"], found["flops"]["value"], found["copy_bytes"]) for name, found in mine.items()]
    rows += [(each.job, each.seconds, each.cost, each.flops, each.copy_bytes) for each in PUBLIC]
    shown = [(job, *("" if value is None else say(value) for value, say in zip(values, (units.seconds, units.money, units.operations, units.size), strict=True)))
             for job, *values in rows]
    return pd.DataFrame(shown, columns=["job", "time", "cost", "operations", "copy"])


# --- torch.compile --------------------------------------------------------------------------------------------------------


def compile_break_even(step_s: float, compile_s: float, compiled_step_s: float) -> int | None:
    """After how many steps the time of compiling is won back; None where a compiled step is not faster."""
    return math.ceil(compile_s / (step_s - compiled_step_s)) if compiled_step_s < step_s else None


@contextmanager
def compiled(modules: Sequence[torch.nn.Module], rehearse: Callable[[], None], steps: int, progress: Callable[[dict], None]) -> Iterator[None]:
    """The modules compiled in place for the time of a training of `steps` steps, and what that gains, measured and told before the first.

    `rehearse` computes one step's gradients and throws them away; it is called twice as things are and twice compiled, so no
    training step is ever computed in two ways, and a resumed training ends like one that was not interrupted. Raises HarnessError
    where torch cannot compile here.
    """
    _seconds(rehearse)  # the first is slower
    plain = _seconds(rehearse)
    for module in modules:
        module.compile()
    try:
        try:
            first = _seconds(rehearse)
        except Exception as error:  # whatever the compiler, or the lack of one, comes up with
            raise HarnessError(f"torch.compile does not work on this machine ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}); "
                               "set compile=false.") from error
        after = _seconds(rehearse)
        progress({"stage": "compile", "note": _gain(plain, max(0.0, first - after), after, steps)})
        yield
    finally:
        for module in modules:
            module._compiled_call_impl = None  # torch has no public way back


def _gain(plain: float, compiling: float, after: float, steps: int) -> str:
    """The break-even in a sentence."""
    needed = compile_break_even(plain, compiling, after)
    figures = f"compiling took {units.seconds(compiling)}; a step takes {after:.3g} s instead of {plain:.3g} s"
    if needed is None:
        return f"{figures}: it does not pay"
    return f"{figures}: it pays after {needed} steps, and there are {steps}" + ("" if needed <= steps else ", so it does not pay here")


def _seconds(call: Callable[[], None]) -> float:
    import torch

    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
