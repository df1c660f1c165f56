"""What one decoder layer needs to be computed again and to back-propagate: the tensors that live at its two peaks.

The layer's input comes back from where it was kept, attention is recomputed, the feed-forward goes forward and
backward tile by tile, and then the gradient goes through attention. One peak is inside the last tile, the other in
attention's backward.
"""
# S input tokens · D hidden · Q query width · K key width · F feed-forward

from __future__ import annotations

from rlvr.memory.settings import Settings
from rlvr.memory.shapes import Shape


def layer_bytes(shape: Shape, settings: Settings, *, tokens: int, tile_rows: int, offload: bool) -> dict[str, int]:
    """Bytes of the larger of the two peaks, by what they are for."""
    peaks = (
        _feed_forward_peak(shape, settings, tokens=tokens, tile_rows=tile_rows),
        _attention_peak(shape, settings, tokens=tokens),
    )
    largest = max(peaks, key=lambda rows: sum(rows.values()))
    buffer = {"the next layer's input": tokens * shape.hidden_size * settings.weight_bytes} if offload else {}
    return largest | buffer


def bytes_per_token(shape: Shape, settings: Settings, *, tokens: int, tile_rows: int, offload: bool) -> float:
    """The same for each token, without attention's workspace: the figure to hold against a measured layer."""
    rows = layer_bytes(shape, settings, tokens=tokens, tile_rows=tile_rows, offload=offload)
    return sum(amount for name, amount in rows.items() if name != "attention's workspace") / tokens


def _kept(shape: Shape, settings: Settings) -> int:
    """Bytes for each token of the recomputed attention that wait for its backward pass, the layer's input included."""
    D, Q, K, size = shape.hidden_size, shape.query_width, shape.key_width, settings.weight_bytes
    upcast = _upcast_bytes(settings)
    kept = D * (size + upcast + size)  # input · its float32 copy in the norm · normed
    kept += size * (Q + 2 * K) + size * Q + 4 * shape.num_attention_heads  # q, k, v · output · log-sum-exp
    if shape.family.qk_norm:
        kept += (size + upcast) * (Q + K)
    if shape.family.norms_per_layer == 4:
        kept += D * (size + upcast)
    if settings.method == "lora":
        kept += 4 * settings.rank * size + (_cast_bytes(settings) * (3 * D + Q))
    return kept


def _feed_forward_peak(shape: Shape, settings: Settings, *, tokens: int, tile_rows: int) -> dict[str, int]:
    D, F, size = shape.hidden_size, shape.intermediate_size, settings.weight_bytes
    rows = min(tokens, tile_rows) if settings.recompute == "tiles" else tokens
    inner = D * (size + _upcast_bytes(settings) + size)  # normed · its float32 copy · gradient of normed
    inner += 4 * F * size  # gate · up · their product · its gradient; the rest is in place
    if shape.family.norms_per_layer == 4:
        inner += D * (size + _upcast_bytes(settings))
    if settings.recompute == "checkpoint":
        inner += F * size + _cast_bytes(settings) * (2 * D + 2 * F)  # silu(gate) · what PEFT casts to float32
    if settings.method == "lora":
        inner += 3 * settings.rank * size
    return {
        "attention, recomputed": tokens * _kept(shape, settings),
        "output gradient, middle and its gradient": 3 * tokens * D * size,
        "feed-forward": rows * inner,
    }


def _attention_peak(shape: Shape, settings: Settings, *, tokens: int) -> dict[str, int]:
    D, Q, K, size = shape.hidden_size, shape.query_width, shape.key_width, settings.weight_bytes
    gradients = size * (Q + Q + 2 * K)  # of the output, q, k and v
    rows = {
        "attention, recomputed": tokens * _kept(shape, settings),
        "output gradient, middle and its gradient": 3 * tokens * D * size,
        "gradients of attention": tokens * gradients,
    }
    if settings.is_cuda:  # flash attention sums dq in float32, and dk and dv for every query head
        grouped = 2 * Q * size if K < Q else 0
        rows["attention's workspace"] = tokens * (4 * Q + grouped)
    return rows


def _upcast_bytes(settings: Settings) -> int:
    """Norms of transformers compute in float32, and keep that copy for backward."""
    return 4 if settings.weight_bytes < 4 else 0


def _cast_bytes(settings: Settings) -> int:
    """PEFT casts each adapted input to the adapter's float32; the fused function does not."""
    is_cast = settings.recompute == "checkpoint" and settings.method == "lora" and settings.weight_bytes < 4
    return 4 if is_cast else 0
