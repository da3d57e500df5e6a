"""The most memory that is alive at once in a computation, followed on tensors that have shapes and no contents.

Imports torch at its head: only what counts a model imports this.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LOW, HIGH, ATTENTION = ("linear", "conv2d"), ("group_norm", "layer_norm"), "scaled_dot_product_attention"
"""functions that autocast computes in bfloat16, and in float32"""


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


@contextmanager
def as_computed(mixed: bool = False) -> Iterator[list[torch.Tensor]]:
    """Tensors without contents are computed in the shapes and precisions that real ones are; others stay untouched.

    Attention makes no table of weights, as in the fused kernels of CPUs and GPUs: on the meta device torch takes it apart,
    and would hold n × n per head. With ``mixed``, products take bfloat16 and norms float32, as under CUDA's autocast, which
    the meta device has not. The list holds the weights' copies in bfloat16 for as long as autocast keeps them: clear it behind
    the forward pass; what a recomputation adds later is let go at once. The functions are exchanged, and not followed by a
    mode, because a recomputation inside the backward pass runs outside of modes.
    """
    real, kept = {name: getattr(functional, name) for name in (*LOW, *HIGH, ATTENTION)}, _Kept()

    def exchanged(name: str) -> Callable[..., Any]:
        def call(first: torch.Tensor, *rest: Any, **named: Any) -> Any:
            if first.device.type != "meta":
                return real[name](first, *rest, **named)
            given = [_cast(each, name, kept) if mixed else each for each in (first, *rest)]
            if name == ATTENTION:
                return _Attention.apply(*(given[place] if len(given) > place else named[word] for place, word in enumerate(("query", "key", "value"))))
            return real[name](*given, **({word: _cast(each, name, kept) for word, each in named.items()} if mixed else named))

        return call

    try:
        for name in real:
            setattr(functional, name, exchanged(name))
        yield kept
    finally:
        for name, function in real.items():
            setattr(functional, name, function)


class _Kept(list):
    """Copies that autocast keeps; none any more once it was cleared."""

    open = True

    def clear(self) -> None:
        self.open = False
        super().clear()


def _cast(value: Any, name: str, kept: _Kept) -> Any:
    """A tensor in the precision that autocast gives this function."""
    wanted = torch.float32 if name in HIGH else torch.bfloat16
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dtype == wanted:
        return value
    made = value.to(wanted)
    if kept.open and value.is_leaf and value.requires_grad:
        kept.append(made)
    return made


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        made = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, made)
        return made

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])
