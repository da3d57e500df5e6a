"""Mends ``import torchvision`` where torch is a CPU build and torchvision is not.

There torchvision's compiled operators cannot be loaded, its import dies with ``operator torchvision::nms does not
exist``, and transformers, diffusers, peft and open_clip then die with errors that mislead. Declaring the schemas of
the two operators that the import asks for is enough; nobody here calls them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

from harness.errors import HarnessError

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
OPERATORS = ("nms", "qnms")
_kept: list[object] = []  # a Library takes its operators with it when it is collected


def install() -> str:
    """Make ``import torchvision`` work, and say how: "absent", "healthy" or "mended". Calling it again is free.

    Raises HarnessError when torchvision is broken in a way that this cannot mend.
    """
    if importlib.util.find_spec("torchvision") is None or importlib.util.find_spec("torch") is None:
        return "absent"
    if _kept:
        return "mended"
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise _broken(error) from error
        _mend()
        return "mended"
    except (ImportError, OSError) as error:
        raise _broken(error) from error
    return "healthy"


def _mend() -> None:
    import torch

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # the failed import left halves behind
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in OPERATORS:
        library.define(operator + SCHEMA)
    _kept.append(library)
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        raise _broken(error) from error


def _broken(error: BaseException) -> HarnessError:
    return HarnessError(
        f"torchvision cannot be imported ({type(error).__name__}: {error}); reinstall it together with torch "
        "(`python -m pip install --force-reinstall torch torchvision`), or remove it: nothing here needs it"
    )
