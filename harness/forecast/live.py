"""The most memory that is alive at once in a computation, followed on tensors that have shapes and no contents.

Imports torch at its head: only the process that counts a model imports this.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Follows every storage that an operation makes until nothing refers to it; ``peak`` is the highest sum, in bytes.

    The weights of ``models`` are not counted; their gradients are.
    """

    def __init__(self, models: Iterable[torch.nn.Module]) -> None:
        super().__init__()
        self.now = self.peak = 0
        kept = (tensor for model in models for tensor in (*model.parameters(), *model.buffers()))
        self._known = {tensor.untyped_storage()._cdata for tensor in kept}

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run the operation and take note of what it made."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._meet(tensor.untyped_storage())
        return made

    def _meet(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._leave, storage._cdata, storage.nbytes())

    def _leave(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.now -= size


class fused_attention(TorchFunctionMode):  # noqa: N801 - used like a function
    """Attention without its table of weights, as the fused kernels of CPUs and GPUs compute it.

    On the meta device torch takes the attention apart into products, and would hold a table of n × n per head.
    """

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Replace the attention, leave everything else."""
        named = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _Attention.apply(*(args[place] if len(args) > place else named[name] for place, name in enumerate(("query", "key", "value"))))
        return func(*args, **named)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        made = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, made)
        return made

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])
