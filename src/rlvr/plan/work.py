"""The work of an optimizer step, counted from a model's shape, and how long a card takes for it: estimated.

FLOPs, bytes and launches are what the project's own update does, kernel by kernel; benchmarks/gpu/simulate.py counts
the same at full size, and tests/benchmarks/test_simulate.py holds both together. Seconds are those of a card's
published peaks, of which an assumed share is reached.
"""
# D hidden · Q query width · K key width · F feed-forward · V vocabulary

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, fields

from rlvr.plan.cards import Card, Speed
from rlvr.plan.predict import trained_parameters, weight_rows
from rlvr.plan.settings import NF4_BLOCK, STATE_BYTES, Choice, PlanSettings, shares_prompt
from rlvr.plan.shapes import Shape
from rlvr.plan.working_set import FEED_FORWARD, SCORE_BYTES, has_efficient, has_flash, waiting_bytes

# Assumed, not derived; docs/decisions/0008 says where from and what will replace them by measurement.
REACHED = Speed(0.6, 0.85, 0.8)  # of the peaks, by products and attention, memory and link
KERNEL_SECONDS = 2e-6  # from the end of a kernel to the work of the next
DISPATCH_SECONDS = 8e-6  # of the host for one launch

UNPACKED_BYTES = 2.64  # of a weight in NF4 that is read with its scales, and written in 16 bits
ATTENTION_FLOPS = 4, 10  # for each number of a query and key that it sees; forward, backward
BLOCK_LAUNCHES = 17, 37  # of a block of queries where no kernel fits; forward, backward
SCORE_MOVED = 30, 71  # bytes for each of its scores
KEY_MOVED = 20, 50  # bytes for each number of the keys that it sees
LAYER_LAUNCHES, TILE_LAUNCHES = (21, 23), (4, 7)  # forward and backward, without those of linear layers
LINEAR_LAUNCHES = {"full": (1, 3), "lora": (5, 11)}  # forward and backward, for each use
UNPACK_LAUNCHES = 3
JOIN_ROWS, JOIN_LAUNCHES = 1024, 6  # of attention/unpadded.py
CALL_ROWS, CALL_LAUNCHES = 8192, 10  # a call of attention's backward
HEAD_LAUNCHES = 11  # of a chunk of logits
COPY_BYTES = 2**24  # of memory/offload.py
STATE_LAUNCHES = 8  # for each trained tensor whose states visit the card
MEANWHILE = ", next to it"
ATTENTION = frozenset(("qkv_proj", "q_proj", "k_proj", "v_proj", "o_proj"))
ALL = ATTENTION | frozenset(FEED_FORWARD)


@dataclass
class Work:
    """What is computed and moved. `unpacked_bytes` and `other_bytes` are read and written on the card."""

    product_flops: float = 0.0
    attention_flops: float = 0.0
    product_bytes: float = 0
    unpacked_bytes: float = 0
    other_bytes: float = 0
    to_host_bytes: float = 0
    from_host_bytes: float = 0
    launches: float = 0

    def add(self, other: Work, times: float = 1) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + times * getattr(other, field.name))


@dataclass(frozen=True)
class Pass:
    """What goes through the model at once: prompts, and completions, whose prompt may have its own pass."""

    settings: PlanSettings
    prompts: int
    answers: int

    @property
    def trained(self) -> int:
        return self.answers * self.settings.completion_tokens

    @property
    def tokens(self) -> int:
        return self.prompts * self.settings.prompt_tokens + self.trained

    @property
    def joined(self) -> int:
        """Tokens whose attention to a prompt is joined to that within their sequence."""
        return self.trained if self.settings.prompt_tokens else 0

    def pairs(self, window: int | None) -> float:
        """Pairs of a query and a key that it sees."""
        prompt, context = self.settings.prompt_tokens, self.settings.context
        of_answer = _pairs(context, window) - _pairs(prompt, window)
        return self.prompts * _pairs(prompt, window) + self.answers * of_answer


def _pairs(tokens: int, window: int | None) -> float:
    seen = tokens if window is None else min(tokens, window)
    return tokens * seen - seen**2 / 2


def planned_work(shape: Shape, settings: PlanSettings, choice: Choice, *, is_ampere: bool) -> dict[str, Work]:
    """The work of each phase of an optimizer step on all completions of a step."""
    forward, head, backward = Work(), Work(), Work()
    layers, stream = shape.num_hidden_layers, shape.hidden_size * settings.weight_bytes
    for count, part in _passes(settings, choice):
        layer = Layer(shape, settings, choice, part, is_ampere and has_flash(shape, settings))
        forward.add(layer.forward(is_first=True), count * layers)
        backward.add(layer.backward(), count * layers)
        if choice.offload and settings.recompute != "none":
            moved = waiting_bytes(shape, settings, choice) * part.tokens
            launches = -(-moved // COPY_BYTES)
            forward.add(Work(to_host_bytes=moved, launches=launches), count * layers)
            backward.add(Work(from_host_bytes=moved, launches=launches), count * (layers - 1))
        forward.add(Work(other_bytes=4 * stream * part.tokens), count)
        backward.add(Work(other_bytes=3.5 * stream * part.tokens + _added_bytes(shape, settings)), count)
        head.add(_head(shape, settings, choice, part), count)
    return {
        "forward": forward, "head": head, "backward": backward, "optimizer": _optimizer(shape, settings, choice)
    }  # fmt: skip


def least_seconds(work: Work, speed: Speed) -> dict[str, float]:
    """Seconds of each kind of work at a card's peaks; copies over the link run next to the rest, one way next to the
    other, and pass through the card's memory."""
    moved_bytes = work.other_bytes + work.to_host_bytes + work.from_host_bytes
    return {
        "products": max(work.product_flops / speed.flops, work.product_bytes / speed.memory_bytes),
        "attention": work.attention_flops / speed.flops,
        "unpacking": work.unpacked_bytes / speed.memory_bytes,
        "other kernels": moved_bytes / speed.memory_bytes,
        f"link{MEANWHILE}": max(work.to_host_bytes, work.from_host_bytes) / speed.link_bytes,
    }


@dataclass(frozen=True)
class Estimate:
    """Seconds of an update, estimated, and of each kind of its work; kinds "next to it" hide behind the others."""

    seconds: float
    kinds: dict[str, float]

    @property
    def duration(self) -> str:
        """In two or three digits."""
        return f"{self.seconds / 60:,.0f} minutes" if self.seconds >= 600 else _rounded(self.seconds)

    def __str__(self) -> str:
        """By kind; what runs next to the rest stands behind it."""
        shown = {name: f"{name.removesuffix(MEANWHILE)} {_rounded(seconds)}" for name, seconds in self.kinds.items()}
        own = ", ".join(text for name, text in shown.items() if not name.endswith(MEANWHILE))
        others = ", ".join(text for name, text in shown.items() if name.endswith(MEANWHILE))
        return f"{own}; at the same time {others}"


def _rounded(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def update_estimate(shape: Shape, settings: PlanSettings, choice: Choice, card: Card) -> Estimate:
    """How long an optimizer step takes: each phase what its kernels take, or its launches on the host, or the link."""
    return estimate(planned_work(shape, settings, choice, is_ampere=card.has_bf16), card.speed)


def estimate(phases: Mapping[str, Work], speed: Speed) -> Estimate:
    reached = Speed(*(a * b for a, b in zip(astuple(speed), astuple(REACHED), strict=True)))
    kinds: dict[str, float] = {}
    total = 0.0
    for work in phases.values():
        seconds = least_seconds(work, reached)
        seconds["other kernels"] += KERNEL_SECONDS * work.launches
        seconds[f"launches{MEANWHILE}"] = DISPATCH_SECONDS * work.launches
        *on_card, link, launches = seconds.values()
        total += max(sum(on_card), link, launches)
        kinds = {name: kinds.get(name, 0.0) + value for name, value in seconds.items()}
    return Estimate(total, kinds)


def rollout_seconds(shape: Shape, settings: PlanSettings, choice: Choice, card: Card) -> float:
    """What reading the weights for each token takes; caches are read as often however many are generated at once."""
    batches = -(-settings.completions_per_step // choice.kv_sequences)
    read = sum(row.amount_bytes for row in weight_rows(shape, settings))
    return batches * settings.completion_tokens * read / (REACHED.memory_bytes * card.speed.memory_bytes)


def _passes(settings: PlanSettings, choice: Choice) -> Iterator[tuple[int, Pass]]:
    """The passes of an optimizer step, and how often each occurs."""
    group, total, at_once = settings.completions, settings.completions_per_step, choice.sequences
    if at_once >= group:
        whole, rest = divmod(total, at_once)
        sizes, repeats = ((whole, at_once), (1, rest)), 1
    else:
        sizes, repeats = ((group // at_once, at_once), (1, group % at_once)), max(1, total // group)
    is_shared = shares_prompt(settings, choice) and settings.prompt_tokens > 0
    if is_shared:
        yield repeats, Pass(settings, 1, 0)
    for count, answers in sizes:
        if count and answers:
            prompts = 0 if is_shared or not settings.prompt_tokens else -(-answers // group)
            yield count * repeats, Pass(settings, prompts, answers)


@dataclass(frozen=True)
class Layer:
    """The work of one decoder layer in one pass, of one with a window and one without on average."""

    shape: Shape
    settings: PlanSettings
    choice: Choice
    part: Pass
    has_flash: bool

    @property
    def tiles(self) -> int:
        return -(-self.part.tokens // self.choice.tile_rows) if self.settings.recompute == "tiles" else 1

    def forward(self, *, is_first: bool) -> Work:
        """Forward, or, with `is_first` off, what backward computes again."""
        shape, size = self.shape, self.settings.weight_bytes
        D, Q, heads = shape.hidden_size, shape.query_width, shape.query_width + shape.key_width
        numbers = 4 * shape.intermediate_size + 10 * heads + (2 * shape.family.norms_per_layer + 6) * D
        numbers += 2 * heads if shape.family.qk_norm else 0
        numbers += 2 * Q if shape.family.is_fused else 0
        numbers += 2 * D if is_first and self.settings.recompute == "tiles" else 0
        work = self._products(activations=2 if self.settings.method == "lora" else 1, products=1)
        work.other_bytes = size * numbers * self.part.tokens + 6 * self._adapter_uses()
        work.launches = self._launches(0)
        self._unpack(work, ALL if is_first or self.tiles == 1 else ATTENTION)  # the rest stays unpacked for backward
        if is_first or not self.choice.keep_attention:
            self._attend(work, 0)
            work.other_bytes += 15 * size * Q * self.part.joined
            work.launches += JOIN_LAUNCHES * -(-self.part.joined // JOIN_ROWS)
        return work

    def backward(self) -> Work:
        """Backward, and what it computes again before."""
        shape, size = self.shape, self.settings.weight_bytes
        D, Q, K = shape.hidden_size, shape.query_width, shape.key_width
        numbers = 9 * shape.intermediate_size + 19 * (Q + K) + 5 * (Q + 2 * K)
        numbers += (3 * shape.family.norms_per_layer + 12) * D
        numbers += 3 * (Q + K) if shape.family.qk_norm else 0
        numbers += 11 * (Q + 2 * K) + 2 * shape.intermediate_size if shape.family.is_fused else 0
        work = self._products(activations=3 if self.settings.method == "lora" else 2, products=2)
        work.other_bytes = size * (numbers * self.part.tokens + 4 * Q * self.part.joined)
        work.other_bytes += 13 * self._adapter_uses() + self._summed_bytes()
        work.launches = self._launches(1) + CALL_LAUNCHES * (self.part.tokens // CALL_ROWS)
        self._unpack(work, ALL)
        self._attend(work, 1)
        if self.settings.recompute != "none":
            work.add(self.forward(is_first=False))
        return work

    def _products(self, *, activations: int, products: int) -> Work:
        """Linear layers: what goes in and comes out is read or written `activations` times.

        Trained weights take part in so many `products`, adapters too; frozen ones in one.
        """
        size, tokens, is_lora = self.settings.weight_bytes, self.part.tokens, self.settings.method == "lora"
        work, times = Work(), 1 if is_lora else products
        for linear in self.shape.linears():
            ends, uses = linear.inputs + linear.outputs, self.tiles if linear.name in FEED_FORWARD else 1
            adapter = self.settings.rank * ends * products if is_lora else 0
            work.product_flops += 2 * tokens * (times * linear.weights + adapter)
            work.product_bytes += size * (activations * tokens * ends + times * uses * linear.weights)
        return work

    def _attend(self, work: Work, way: int) -> None:
        shape, part = self.shape, self.part
        full = shape.num_hidden_layers - shape.windowed_layers
        for window, layers in ((shape.sliding_window, shape.windowed_layers), (None, full)):
            share = layers / shape.num_hidden_layers
            if self.has_flash or (window is None and has_efficient(shape)):
                work.attention_flops += share * ATTENTION_FLOPS[way] * part.pairs(window) * shape.query_width
            elif layers:
                work.add(self._in_blocks(window, way), share)

    def _in_blocks(self, window: int | None, way: int) -> Work:
        """Attention in plain torch. Its FLOPs, in float32, are not counted: moving the scores takes longer."""
        part, heads, work = self.part, self.shape.num_attention_heads, Work()
        prompt, answer = part.settings.prompt_tokens, part.settings.completion_tokens
        for count, queries, keys, pairs in (
            (part.prompts, prompt, prompt, _pairs(prompt, window)),
            (part.answers, answer, answer, _pairs(answer, window)),
            (1, part.joined, prompt, part.joined * prompt),
        ):
            if count and pairs:
                widest = keys if window is None else min(keys, 2 * window)
                rows = min(queries, max(1, SCORE_BYTES // (4 * heads * widest)))
                blocks = count * queries / rows
                work.launches += BLOCK_LAUNCHES[way] * blocks
                work.other_bytes += SCORE_MOVED[way] * count * pairs * heads
                work.other_bytes += KEY_MOVED[way] * blocks * self.shape.key_width * pairs / queries
        return work

    def _unpack(self, work: Work, names: frozenset[str]) -> None:
        if self.settings.quantization == "nf4":
            linears = [x for x in self.shape.linears() if x.name in names and x.inputs % NF4_BLOCK == 0]
            work.unpacked_bytes += UNPACKED_BYTES * sum(linear.weights for linear in linears)
            work.launches += UNPACK_LAUNCHES * len(linears)

    def _launches(self, way: int) -> int:
        """Kernels of a pass forward, 0, or backward, 1."""
        feed_forward = sum(linear.name in FEED_FORWARD for linear in self.shape.linears())
        uses = len(self.shape.linears()) + (self.tiles - 1) * feed_forward
        of_linears = LINEAR_LAUNCHES[self.settings.method][way] * uses
        sums = way * (self.tiles - 1) * feed_forward * (2 if self.settings.method == "lora" else 1)
        return LAYER_LAUNCHES[way] + TILE_LAUNCHES[way] * self.tiles + of_linears + sums

    def _adapter_uses(self) -> int:
        """Weights of the adapter, as often as they are cast to the type of the products."""
        attention, feed_forward = self._trained(adapter=True)
        return attention + self.tiles * feed_forward if self.settings.method == "lora" else 0

    def _summed_bytes(self) -> int:
        """Gradients of the tiles are added up."""
        _, feed_forward = self._trained(adapter=self.settings.method == "lora")
        size = 4 if self.settings.method == "lora" else self.settings.weight_bytes
        return 2 * size * feed_forward * (self.tiles - 1)

    def _trained(self, *, adapter: bool) -> tuple[int, int]:
        """Weights of attention's linear layers and of the feed-forward's, or of the adapters on them."""
        counts = [0, 0]
        for linear in self.shape.linears():
            count = self.settings.rank * (linear.inputs + linear.outputs) if adapter else linear.weights
            counts[linear.name in FEED_FORWARD] += count
        return counts[0], counts[1]


def _head(shape: Shape, settings: PlanSettings, choice: Choice, part: Pass) -> Work:
    """Logits, the loss and the gradient of the last hidden states, a chunk at a time; a trained head's, too."""
    size, width, chunks = settings.weight_bytes, shape.hidden_size, -(-part.trained // choice.head_rows)
    weights, is_full = shape.vocab_size * width, settings.method == "full"
    return Work(
        product_flops=(6 if is_full else 4) * part.trained * weights,
        product_bytes=chunks * weights * (2 * size + (8 if is_full else 0))
        + part.trained * (shape.vocab_size * (4 + size) + 2 * size * width),
        other_bytes=part.trained * (shape.vocab_size * (4 + size) + 6 * width * size)
        + (8 * chunks * weights if is_full else 0),
        launches=HEAD_LAUNCHES * chunks,
    )


def _added_bytes(shape: Shape, settings: PlanSettings) -> int:
    """A micro-batch's gradients are added to those before."""
    size = 4 if settings.method == "lora" else settings.weight_bytes
    return 3 * size * trained_parameters(shape, settings)


def _optimizer(shape: Shape, settings: PlanSettings, choice: Choice) -> Work:
    """The step on all trained weights; states that wait on the host come and go."""
    count, is_lora = trained_parameters(shape, settings), settings.method == "lora"
    tensors = shape.num_hidden_layers * len(shape.linears()) * (2 if is_lora else 1)
    states = STATE_BYTES[settings.optimizer] * count
    moved = states if choice.states_on_host else 0.0
    return Work(
        other_bytes=2 * states + 3.5 * (4 if is_lora else settings.weight_bytes) * count,
        to_host_bytes=moved,
        from_host_bytes=moved,
        launches=(3 + (STATE_LAUNCHES if choice.states_on_host else 0)) * tensors,
    )
