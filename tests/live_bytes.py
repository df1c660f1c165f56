"""How many bytes of tensors live at the same time."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def storages(tree: Any) -> list[Any]:
    tensors = [x for x in tree_leaves(tree) if isinstance(x, Tensor)]
    return [x.untyped_storage() for x in tensors if torch._C._has_storage(x)]


class LiveBytes(TorchDispatchMode):
    """The highest number of bytes of tensors that were made inside and lived at the same time.

    Weights that oneDNN has packed have no size that it could see, and are left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self.seen: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {storage._cdata for storage in storages((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for storage in storages(out):
            if storage._cdata not in given and storage._cdata not in self.seen:
                self.seen[storage._cdata] = storage.nbytes()
                self.live_bytes += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return out

    def _gone(self, key: int) -> None:
        self.live_bytes -= self.seen.pop(key)
