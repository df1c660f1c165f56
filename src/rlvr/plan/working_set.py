"""What one decoder layer needs to be computed again and to back-propagate: the tensors that live at its two peaks.

The layer's input comes back from where it was kept, attention is recomputed, the feed-forward goes forward and
backward tile by tile, and then the gradient goes through attention. One peak is inside the last tile, the other in
attention's backward.
"""
# S input tokens · D hidden · Q query width · K key width · F feed-forward

from __future__ import annotations

from collections.abc import Sequence

from rlvr.plan.settings import Choice, PlanSettings, input_tokens
from rlvr.plan.shapes import LinearShape, Shape

WORKSPACE = "attention's workspace"
OUTPUT_GRADIENT = "gradients of output and middle"
UNPACKED = "weights, unpacked"
SCORE_BYTES = 2**24
CALL_TOKENS = (
    8192  # of attention/pieces.py, as the next two of its neighbours layout.py and padded.py, which import torch
)
SHORT_ROW_BYTES = 2**17
PART_BYTES = 2**20
FEED_FORWARD = ("gate_proj", "up_proj", "gate_up_proj", "down_proj")


def layer_bytes(shape: Shape, settings: PlanSettings, choice: Choice) -> dict[str, int]:
    """Bytes of the larger of the two peaks, by what they are for."""
    if settings.recompute == "none":
        peaks = _plain_peaks(shape, settings, choice)
    else:
        peaks = _feed_forward_peak(shape, settings, choice), _attention_peak(shape, settings, choice)
    largest = max(peaks, key=lambda rows: sum(rows.values()))
    waiting = 2 * input_tokens(settings, choice) * waiting_bytes(shape, settings, choice)
    return {"what waits of the layer and of the one below": waiting} | largest if choice.offload else largest


def waiting_bytes(shape: Shape, settings: PlanSettings, choice: Choice) -> int:
    """Bytes for each token that wait from a recomputed layer's forward pass to its backward pass."""
    attention = attention_bytes(shape, settings) if choice.keep_attention else 0
    return shape.hidden_size * settings.weight_bytes + attention


def attention_bytes(shape: Shape, settings: PlanSettings) -> int:
    """Bytes for each token of attention's output and log-sum-exp."""
    return shape.query_width * settings.weight_bytes + 4 * shape.num_attention_heads


def bytes_per_token(shape: Shape, settings: PlanSettings, choice: Choice) -> float:
    """The same for each token, without attention's workspace and the weights: to be compared with a measured layer."""
    rows = layer_bytes(shape, settings, choice)
    amount = sum(amount for name, amount in rows.items() if name not in (WORKSPACE, UNPACKED))
    return amount / input_tokens(settings, choice)


def kept_bytes(shape: Shape, settings: PlanSettings, choice: Choice) -> int:
    """Bytes that one layer keeps for its backward pass when nothing is recomputed."""
    of_attention = _kept(shape, settings) + shape.hidden_size * settings.weight_bytes  # and the layer's input
    return input_tokens(settings, choice) * of_attention + feed_forward_kept_bytes(shape, settings, choice)


def feed_forward_kept_bytes(shape: Shape, settings: PlanSettings, choice: Choice) -> int:
    """The part of it that the feed-forward and its norms keep, and free first; the gate works in place."""
    D, F, size = shape.hidden_size, shape.intermediate_size, settings.weight_bytes
    per_token = 2 * D * size + 4  # middle · normed · 1 / rms
    per_token += 3 * F * size  # gate, up and their product
    if shape.family.norms_per_layer == 4:
        per_token += D * size + 4
    if settings.method == "lora":
        per_token += 3 * settings.rank * size
    return input_tokens(settings, choice) * per_token


def _plain_peaks(shape: Shape, settings: PlanSettings, choice: Choice) -> tuple[dict[str, int], dict[str, int]]:
    """Where nothing is recomputed, in the last layer: as its gate goes backward, and as its attention does.

    Until then the layer's feed-forward is kept besides what all others keep; attention has its place.
    """
    D, F, size = shape.hidden_size, shape.intermediate_size, settings.weight_bytes
    tokens = input_tokens(settings, choice)
    feed_forward = [linear for linear in shape.linears() if linear.name in FEED_FORWARD]
    in_gate = {
        "kept by the last feed-forward": feed_forward_kept_bytes(shape, settings, choice),
        OUTPUT_GRADIENT: tokens * D * size,
        "gradient of the gate": tokens * F * size,
        UNPACKED: _unpacked(shape, settings, ("down_proj",)),
        "gradients not added yet": max(x.weights for x in feed_forward) * size if settings.method == "full" else 0,
    }
    in_attention = {
        "gradient of the middle": tokens * D * size,
        "gradients of attention": tokens * _attention_gradients(shape, settings),
        WORKSPACE: _workspace(shape, settings, choice),
    }
    return in_gate, in_attention


def _kept(shape: Shape, settings: PlanSettings) -> int:
    """Bytes for each token of the recomputed attention that wait for its backward pass, without the layer's input."""
    D, Q, K, size = shape.hidden_size, shape.query_width, shape.key_width, settings.weight_bytes
    amount = D * size + 4  # normed · 1 / rms
    amount += size * (Q + 2 * K) + attention_bytes(shape, settings)
    if shape.family.is_fused:
        amount += size * (Q + K)  # v is a view of the fused projection and holds all of it
    if shape.family.qk_norm:
        amount += (Q + K) * size + 4 * (Q + K) // shape.head_dim
    if shape.family.norms_per_layer == 4:
        amount += D * size + 4
    if settings.method == "lora":
        amount += 4 * settings.rank * size
    return amount


def _feed_forward_peak(shape: Shape, settings: PlanSettings, choice: Choice) -> dict[str, int]:
    D, F, size = shape.hidden_size, shape.intermediate_size, settings.weight_bytes
    tokens = input_tokens(settings, choice)
    rows = min(tokens, choice.tile_rows) if settings.recompute == "tiles" else tokens
    inner = 2 * D * size + 4  # normed · its gradient · 1 / rms
    inner += 4 * F * size  # gate and up, over which their gradients are written, the product's gradient and up's
    if shape.family.norms_per_layer == 4:
        inner += D * size + 4
    if settings.method == "lora":
        inner += 3 * settings.rank * size
    feed_forward = [linear for linear in shape.linears() if linear.name in FEED_FORWARD]
    down = [linear for linear in feed_forward if linear.name == "down_proj"]
    is_tiled = rows < tokens
    copies = 1 if is_tiled else 0  # of the tiles before
    wide = rows * inner
    weights = _unpacked(shape, settings, FEED_FORWARD if is_tiled else ("down_proj",))
    if shape.family.is_fused and not is_tiled:  # or as the wider matrix goes backward
        narrower = rows * (inner - 2 * F * size), _unpacked(shape, settings, ("gate_up_proj",))
        wide, weights = max((wide, weights), narrower, key=sum)
    return {
        "attention, recomputed": tokens * _recomputed(shape, settings, choice),
        "the middle": tokens * D * size,
        OUTPUT_GRADIENT: _output_gradient(shape, settings, choice),
        "feed-forward": wide,
        "gradients not added yet": copies * _gradient_bytes(feed_forward, settings) + _gradient_bytes(down, settings),
        UNPACKED: weights,
    }


def _recomputed(shape: Shape, settings: PlanSettings, choice: Choice) -> int:
    """Bytes for each token of what `_kept` counts, without what has waited."""
    return _kept(shape, settings) - (attention_bytes(shape, settings) if choice.keep_attention else 0)


def _attention_peak(shape: Shape, settings: PlanSettings, choice: Choice) -> dict[str, int]:
    tokens = input_tokens(settings, choice)
    done = [linear for linear in shape.linears() if linear.name in (*FEED_FORWARD, "o_proj")]
    return {
        "attention, recomputed": tokens * _recomputed(shape, settings, choice),
        OUTPUT_GRADIENT: _output_gradient(shape, settings, choice),
        "gradients of attention": tokens * _attention_gradients(shape, settings),
        "gradients not added yet": _gradient_bytes(done, settings),
        WORKSPACE: _workspace(shape, settings, choice),
    }


def _output_gradient(shape: Shape, settings: PlanSettings, choice: Choice) -> int:
    """A layer that goes through its feed-forward in tiles writes the middle's gradient over that of its output."""
    copies = 1 if settings.recompute == "tiles" else 2
    return copies * input_tokens(settings, choice) * shape.hidden_size * settings.weight_bytes


def _attention_gradients(shape: Shape, settings: PlanSettings) -> int:
    """Bytes for each token of the gradients around attention's kernel, less what has left by then."""
    D, Q, K = shape.hidden_size, shape.query_width, shape.key_width
    gradients = settings.weight_bytes * Q + _working_bytes(settings) * (Q + 2 * K)  # of the output; of q, k and v
    if shape.family.norms_per_layer != 4:
        return gradients
    return max(0, gradients - D * settings.weight_bytes)  # what the norm behind attention kept has left


def _workspace(shape: Shape, settings: PlanSettings, choice: Choice) -> int:
    """Bytes that attention's backward needs for one call of its kernel.

    On a CPU they are those of the results of one sequence, and in 16 bits of its inputs in float32, too.
    """
    Q, K, prompt = shape.query_width, shape.key_width, settings.prompt_tokens
    longest = max(prompt, settings.completion_tokens)
    if settings.is_cuda:
        return _cuda_workspace(shape, settings, choice)
    if settings.weight_bytes == 4 and _row_bytes(shape, settings) <= SHORT_ROW_BYTES:
        return _padded_workspace(shape, settings, choice)
    own = longest * (Q + 2 * K)
    rows = min(choice.sequences * settings.completion_tokens, max(settings.completion_tokens, CALL_TOKENS))
    behind = rows * Q + prompt * 2 * K if prompt else 0
    upcast = own + 2 * longest * Q if settings.weight_bytes < 4 else 0
    return 4 * (max(own, behind) + upcast)


def _cuda_workspace(shape: Shape, settings: PlanSettings, choice: Choice) -> int:
    """Bytes of a call on neighbouring sequences, or on a long one, which goes by groups of heads.

    Flash attention sums dq in float32, and dk and dv for every query head where heads share keys. Memory-efficient
    attention has them for every query head in any case, and copies of shared keys and values for each.
    """
    Q, K, shared, size = shape.query_width, shape.key_width, shape.num_key_value_heads, settings.weight_bytes
    longest = max(settings.prompt_tokens, settings.completion_tokens)
    call = min(input_tokens(settings, choice), max(longest, CALL_TOKENS))
    if not (has_flash(shape, settings) or settings.prompt_tokens):
        call = longest  # one sequence at a time; the completions of a prompt are one to it
    wanted = min(shared, -(-call // CALL_TOKENS))
    groups = next(n for n in range(wanted, shared + 1) if shared % n == 0)
    copies = 2 * Q * size if groups > 1 else 0  # of out and its gradient
    if has_flash(shape, settings):
        sums = 4 * Q + (2 * Q * size if K < Q else 0)
        return call * (sums + size * (Q + 2 * K) + copies) // groups
    kernel = call * (4 * Q + size * (3 * Q + (2 * Q if K < Q else 0)) + copies) // groups
    in_blocks = shape.windowed_layers or not has_efficient(shape)
    return max(kernel if has_efficient(shape) else 0, 4 * SCORE_BYTES if in_blocks else 0)


def _unpacked(shape: Shape, settings: PlanSettings, names: Sequence[str]) -> int:
    """4-bit matrices in the type of the products."""
    if settings.quantization == "none":
        return 0
    return sum(linear.weights for linear in shape.linears() if linear.name in names) * settings.weight_bytes


def has_flash(shape: Shape, settings: PlanSettings) -> bool:
    """Whether attention's sizes and types are those of flash attention, which cards before Ampere lack."""
    return settings.is_cuda and settings.weight_bytes == 2 and shape.head_dim <= 256 and shape.head_dim % 8 == 0


def has_efficient(shape: Shape) -> bool:
    """Whether the kernels of memory-efficient attention take the size of the heads; they take no windows."""
    return shape.head_dim % 8 == 0


def _row_bytes(shape: Shape, settings: PlanSettings) -> int:
    """Bytes that padded.Padding counts for a row."""
    of_key = settings.completion_tokens * shape.num_attention_heads + 2 * shape.key_width
    return 4 * settings.context * of_key


def _padded_workspace(shape: Shape, settings: PlanSettings, choice: Choice) -> int:
    """Short rows on a CPU, a part of them at a time: keys and values behind copies of the prompt, and all gradients.

    And what rows send back to the prompts.
    """
    Q, K = shape.query_width, shape.key_width
    rows = min(choice.sequences, max(1, PART_BYTES // _row_bytes(shape, settings)))
    prompts = -(-choice.sequences // settings.completions)
    of_keys = 4 * K if settings.prompt_tokens else 2 * K  # without a prompt keys and values are where they were
    part = rows * (settings.completion_tokens * Q + settings.context * of_keys)
    return 4 * (part + prompts * settings.prompt_tokens * 2 * K)


def _working_bytes(settings: PlanSettings) -> int:
    """Bytes of a value in attention's sums: a CPU has them in float32."""
    return settings.weight_bytes if settings.is_cuda else 4


def _gradient_bytes(linears: Sequence[LinearShape], settings: PlanSettings) -> int:
    if settings.method == "full":
        return sum(linear.weights for linear in linears) * settings.weight_bytes
    return 4 * sum(settings.rank * (linear.inputs + linear.outputs) for linear in linears)
