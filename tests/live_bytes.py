"""How many bytes of tensors live at the same time."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """The highest number of bytes of tensors that were made inside and lived at the same time; not weights that
    oneDNN has packed."""

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self.seen: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            x.untyped_storage()._cdata
            for x in tree_leaves((args, kwargs))
            if isinstance(x, Tensor) and torch._C._has_storage(x)
        }
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            storage = x.untyped_storage() if isinstance(x, Tensor) and torch._C._has_storage(x) else None
            if storage is not None and storage._cdata not in given and storage._cdata not in self.seen:
                self.seen[storage._cdata] = storage.nbytes()
                self.live_bytes += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return out

    def _gone(self, key: int) -> None:
        self.live_bytes -= self.seen.pop(key)
