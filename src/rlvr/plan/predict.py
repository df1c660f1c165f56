"""The bytes of every phase of a run, row by row."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlvr.plan.settings import (
    DRIVER_BYTES,
    ENGINE_BYTES,
    NF4_BYTES,
    SLACK,
    STATE_BYTES,
    Choice,
    PlanSettings,
    answer_pass_tokens,
    group_tokens,
    input_tokens,
    shares_prompt,
)
from rlvr.plan.shapes import Shape
from rlvr.plan.working_set import feed_forward_kept_bytes, kept_bytes, layer_bytes, waiting_bytes

LOGITS = "logits of one chunk"
GRADIENTS = "gradients"
REFERENCE = "reference"
ENGINE_COPY = "the engine's copy of the weights"
STEP_TOKEN_BYTES = 80  # ids, positions and places in 64 bits, advantages and log-probabilities; the last step's, too
PHASES = ("load", "rollout", "head", "backward", "optimizer")


@dataclass(frozen=True)
class PlanRow:
    """Bytes on the card for one purpose. `is_transient`: they come and go in a step, so the allocator adds slack."""

    name: str
    amount_bytes: int
    is_transient: bool = False


@dataclass(frozen=True)
class Prediction:
    """Rows of every phase, and what the host holds meanwhile."""

    phases: dict[str, tuple[PlanRow, ...]]
    host: tuple[PlanRow, ...]
    driver_bytes: int

    def allocated_bytes(self, phase: str) -> int:
        """Live tensors at the peak of `phase`: what torch calls allocated."""
        return sum(row.amount_bytes for row in self.phases[phase])

    def slack_bytes(self, phase: str) -> int:
        return round(SLACK * sum(row.amount_bytes for row in self.phases[phase] if row.is_transient))

    def device_bytes(self, phase: str) -> int:
        """What nvidia-smi shows at the peak: tensors, the allocator's slack, the driver's share."""
        slack = self.slack_bytes(phase) if self.driver_bytes else 0
        return self.allocated_bytes(phase) + slack + self.driver_bytes

    @property
    def peak_phase(self) -> str:
        return max(self.phases, key=self.device_bytes)

    @property
    def peak_bytes(self) -> int:
        """The most that the card must hold at any time."""
        return self.device_bytes(self.peak_phase)

    @property
    def training_bytes(self) -> int:
        """The most tensors that are live during the update."""
        return max(self.allocated_bytes(phase) for phase in ("head", "backward", "optimizer"))

    @property
    def host_bytes(self) -> int:
        return sum(row.amount_bytes for row in self.host)

    def only(self, *names: str) -> Prediction:
        """The same without the other phases and what the host holds in them: a run that does not train."""
        return Prediction({name: self.phases[name] for name in names}, (), self.driver_bytes)


def predict(shape: Shape, settings: PlanSettings, choice: Choice) -> Prediction:
    """The rows of every phase when `choice` is made."""
    weights = weight_rows(shape, settings)
    states, gradients = _trained_rows(shape, settings)
    step = PlanRow(
        "ids and log-probabilities of a step", group_tokens(settings, settings.completions_per_step) * STEP_TOKEN_BYTES
    )
    at_head = gradients if choice.sequences < settings.completions_per_step else replace(gradients, amount_bytes=0)
    resident = [*weights, *([] if choice.states_on_host else [states])]
    phases = {
        "load": tuple(_load_rows(shape, settings, weights)),
        "rollout": (*resident, *_rollout_rows(shape, settings, choice)),
        "head": (*resident, at_head, step, *_head_rows(shape, settings, choice)),
        "backward": (*resident, step, *_backward_rows(shape, settings, choice)),
        "optimizer": (*weights, states, gradients, step),
    }
    host = [PlanRow("layer inputs", _layer_inputs_bytes(shape, settings, choice))] if choice.offload else []
    if choice.states_on_host:
        host.append(states)
    return Prediction(phases, tuple(host), DRIVER_BYTES if settings.is_cuda else 0)


def weight_rows(shape: Shape, settings: PlanSettings) -> list[PlanRow]:
    """The model, its adapter and the frozen reference: there in every phase, but the reference not at load."""
    is_nf4 = settings.quantization == "nf4"
    linear = sum(_linear_bytes(x.weights, x.inputs, settings) for x in shape.linears()) * shape.num_hidden_layers
    linear += round(settings.kept_share * linear) if is_nf4 else 0
    rest = (shape.embedding_weights() + shape.vector_weights()) * settings.weight_bytes
    rows = [PlanRow(f"linear layers, {'NF4' if is_nf4 else f'{8 * settings.weight_bytes} bit'}", linear)]
    rows.append(PlanRow("embedding, head and norms", rest))
    adapter = 4 * shape.adapter_parameters(settings.rank)
    if settings.method == "lora":
        rows.append(PlanRow(f"adapter, rank {settings.rank}", adapter))
    if settings.has_reference:
        rows.append(PlanRow(REFERENCE, adapter if settings.method == "lora" else linear + rest))
    if settings.engine != "native" and not settings.shares_weights:
        rows.append(PlanRow(ENGINE_COPY, linear + rest))
    return rows


def _load_rows(shape: Shape, settings: PlanSettings, weights: list[PlanRow]) -> list[PlanRow]:
    """A card gets 4-bit weights one by one; on a CPU all are loaded first, unless an engine brings them in 4 bits.

    Weights that a CPU trains are copies of those in the file, made one by one.
    """
    weights = [row for row in weights if row.name != REFERENCE]
    largest = max(linear.weights for linear in shape.linears()) * settings.weight_bytes
    if settings.quantization == "none":
        if settings.method == "lora" or settings.is_cuda:
            return weights
        copied = max(largest, shape.vocab_size * shape.hidden_size * settings.weight_bytes)
        return [*weights, PlanRow("the largest matrix, in the file and its copy", copied)]
    checked = PlanRow("the largest matrix before it is quantised, and as it comes back", 2 * largest)
    if settings.is_cuda or settings.engine != "native":
        return [*weights, checked]
    return [PlanRow("all weights before they are quantised", shape.parameters() * settings.weight_bytes), checked]


def trained_parameters(shape: Shape, settings: PlanSettings) -> int:
    return shape.parameters() if settings.method == "full" else shape.adapter_parameters(settings.rank)


def _linear_bytes(weights: int, width: int, settings: PlanSettings) -> int:
    """Bytes of one weight matrix; NF4 leaves one whose rows are not whole blocks as it is."""
    is_nf4 = settings.quantization == "nf4" and width % 64 == 0
    return round(weights * NF4_BYTES) if is_nf4 else weights * settings.weight_bytes


def _trained_rows(shape: Shape, settings: PlanSettings) -> tuple[PlanRow, PlanRow]:
    """Optimizer states and gradients; a gradient has its weight's type, which is float32 for an adapter."""
    count = trained_parameters(shape, settings)
    gradient_bytes = 4 if settings.method == "lora" else settings.weight_bytes
    states = PlanRow(f"optimizer states, {settings.optimizer}", round(count * STATE_BYTES[settings.optimizer]))
    return states, PlanRow(GRADIENTS, count * gradient_bytes)


def kv_cache_bytes(shape: Shape, settings: PlanSettings, sequences: int) -> int:
    """Keys and values of so many completions, and once for each group of their prompts."""
    return group_tokens(settings, sequences) * shape.kv_bytes_per_token(settings.cached_bytes)


def _rollout_rows(shape: Shape, settings: PlanSettings, choice: Choice) -> list[PlanRow]:
    prompt_tokens = -(-choice.kv_sequences // settings.completions) * settings.prompt_tokens
    answer_tokens = choice.kv_sequences * settings.completion_tokens
    per_token = shape.kv_bytes_per_token(settings.cached_bytes)
    drawing = 4 * 4 * shape.vocab_size * choice.kv_sequences  # logits, log-probabilities, exp and its sum, float32
    scores = 4 * 4 * shape.num_attention_heads * settings.context * choice.kv_sequences  # of one layer, float32
    prefill = prompt_tokens * (4 * shape.hidden_size + 3 * shape.intermediate_size) * settings.weight_bytes
    dropping = answer_tokens * shape.key_width * settings.weight_bytes  # a layer's keys: finished rows go
    step = max(drawing, scores, dropping, prefill - answer_tokens * per_token)  # prompts come before answers' cache
    engine, bits = ENGINE_BYTES[settings.engine], " in fp8" if settings.has_fp8_cache else ""
    return [
        PlanRow(f"KV cache{bits}, {choice.kv_sequences} at once", kv_cache_bytes(shape, settings, choice.kv_sequences)),
        PlanRow("one step of generation", step, is_transient=True),
        *([PlanRow(f"engine ({settings.engine})", engine)] if engine else []),
    ]


def head_chunk_bytes(shape: Shape, settings: PlanSettings, head_rows: int) -> int:
    """Logits of one chunk in float32, and their gradient in the weights' type; without a kernel, one more copy."""
    if settings.is_cuda:
        return head_rows * shape.vocab_size * (4 + (settings.weight_bytes if settings.weight_bytes < 4 else 0))
    copies = 4 + (4 if settings.weight_bytes < 4 else 0)
    return head_rows * shape.vocab_size * (copies + settings.weight_bytes)


def _head_rows(shape: Shape, settings: PlanSettings, choice: Choice) -> list[PlanRow]:
    stream = answer_pass_tokens(settings, choice) * shape.hidden_size * settings.weight_bytes
    trained = choice.sequences * settings.completion_tokens
    targets = trained * shape.hidden_size * settings.weight_bytes
    chunk = head_chunk_bytes(shape, settings, min(choice.head_rows, trained))
    return [
        *_kept_inputs(shape, settings, choice),
        *_newest_input(shape, settings, choice),
        *_shared_prompt(shape, settings, choice),
        _rotations(shape, settings, choice),
        PlanRow("last hidden states, normed and their gradient", 2 * stream + targets, is_transient=True),
        PlanRow(LOGITS, chunk, is_transient=True),
        *_head_gradient(shape, settings, choice),
    ]


def _head_gradient(shape: Shape, settings: PlanSettings, choice: Choice) -> list[PlanRow]:
    """A trained head's gradient adds up in float32: the sum and, where the logits were, the share of a chunk."""
    if settings.method != "full":
        return []
    trained = choice.sequences * settings.completion_tokens
    rows = min(choice.head_rows, trained)
    one, logits = 4 * shape.vocab_size * shape.hidden_size, 4 * rows * shape.vocab_size
    if settings.weight_bytes == 4 and settings.is_cuda:
        logits = 0  # their gradient takes their place
    sums = one if rows < trained else 0
    return [PlanRow("gradient of the head", sums + max(0, one - logits), is_transient=True)]


def _backward_rows(shape: Shape, settings: PlanSettings, choice: Choice) -> list[PlanRow]:
    moments = [
        [gradients, *rows(shape, settings, choice)]
        for gradients, rows in zip(
            _gradients_at(shape, settings, choice), (_in_loss_rows, _in_layer_rows, _in_embedding_rows), strict=True
        )
    ]
    return max(moments, key=lambda rows: sum(row.amount_bytes for row in rows))


def _gradients_at(shape: Shape, settings: PlanSettings, choice: Choice) -> tuple[PlanRow, PlanRow, PlanRow]:
    """Gradients as backward begins, in its layers and as it ends: all, where an earlier micro-batch of the step was.

    In the first one they come layer by layer, as what its layers kept goes.
    """
    _, gradients = _trained_rows(shape, settings)
    if choice.sequences < settings.completions_per_step:
        return gradients, gradients, gradients
    size, layers = settings.weight_bytes, shape.num_hidden_layers
    one = shape.vocab_size * shape.hidden_size * size if settings.method == "full" else 0
    head = 0 if shape.tie_word_embeddings else one
    of_layers = gradients.amount_bytes - one - head
    one_input = answer_pass_tokens(settings, choice) * shape.hidden_size * size
    leaving = one_input if choice.offload else sum(row.amount_bytes for row in _kept_inputs(shape, settings, choice))
    in_layers = head + max(0, of_layers * (layers - 1) // layers - leaving)
    return (
        replace(gradients, amount_bytes=0),
        replace(gradients, amount_bytes=in_layers),
        replace(gradients, amount_bytes=head + of_layers),
    )


def _in_loss_rows(shape: Shape, settings: PlanSettings, choice: Choice) -> list[PlanRow]:
    """As backward begins: the gradients of last hidden states and head, and of a 16-bit head in its type, too."""
    D, size = shape.hidden_size, settings.weight_bytes
    stream = answer_pass_tokens(settings, choice) * D * size
    of_hidden = choice.sequences * settings.completion_tokens * D * size
    of_head = shape.vocab_size * D * (4 + (size if size < 4 else 0)) if settings.method == "full" else 0
    return [
        *_kept_inputs(shape, settings, choice),
        *_newest_input(shape, settings, choice),
        *_shared_prompt(shape, settings, choice),
        _rotations(shape, settings, choice),
        PlanRow("last hidden states and their gradient", stream + of_hidden, is_transient=True),
        PlanRow("gradient of the head", of_head, is_transient=True),
    ]


def _in_embedding_rows(shape: Shape, settings: PlanSettings, choice: Choice) -> list[PlanRow]:
    """As backward ends: the embedding's gradient; where embedding and head are one, also the head's and their sum."""
    if settings.method != "full":
        return []
    one = shape.vocab_size * shape.hidden_size * settings.weight_bytes
    amount = (3 if shape.tie_word_embeddings else 1) * one
    return [PlanRow("gradient of the embedding", amount, is_transient=True)]


def _in_layer_rows(shape: Shape, settings: PlanSettings, choice: Choice) -> list[PlanRow]:
    work = layer_bytes(shape, settings, choice)
    last = feed_forward_kept_bytes(shape, settings, choice) if settings.recompute == "none" else 0
    return [
        *(replace(row, amount_bytes=row.amount_bytes - last) for row in _kept_inputs(shape, settings, choice)),
        *_shared_prompt(shape, settings, choice),
        _rotations(shape, settings, choice),
        *(PlanRow(name, amount, is_transient=True) for name, amount in work.items()),
        *_waiting_gradient(shape, settings),
    ]


def _kept_inputs(shape: Shape, settings: PlanSettings, choice: Choice) -> list[PlanRow]:
    if settings.recompute == "none":
        total = shape.num_hidden_layers * kept_bytes(shape, settings, choice)
        if settings.method == "lora":  # the first layer's input needs no gradient
            total -= input_tokens(settings, choice) * shape.hidden_size * settings.weight_bytes
        return [PlanRow("kept by the layers for backward", total, is_transient=True)]
    amount = 0 if choice.offload else _layer_inputs_bytes(shape, settings, choice)
    return [PlanRow("layer inputs", amount, is_transient=True)]


def _newest_input(shape: Shape, settings: PlanSettings, choice: Choice) -> list[PlanRow]:
    """Of offloaded inputs the last one stays on the card until backward takes it."""
    if not choice.offload or settings.recompute == "none":
        return []
    amount = answer_pass_tokens(settings, choice) * waiting_bytes(shape, settings, choice)
    return [PlanRow("the last layer's input", amount, is_transient=True)]


def _shared_prompt(shape: Shape, settings: PlanSettings, choice: Choice) -> list[PlanRow]:
    """What a prompt that is computed once keeps for its completions: keys and values, their gradients, and its end."""
    if not shares_prompt(settings, choice) or settings.prompt_tokens == 0:
        return []
    amount = 2 * settings.prompt_tokens * shape.kv_bytes_per_token(settings.weight_bytes)
    of_token = (2 * shape.hidden_size + 2 * shape.head_dim) * settings.weight_bytes  # around the last norm · rotations
    of_token += waiting_bytes(shape, settings, choice) if choice.offload else 0
    ends = settings.prompt_tokens * of_token
    return [
        PlanRow("the prompt's keys and values, and their gradients", amount, is_transient=True),
        PlanRow("the prompt's last hidden states", ends, is_transient=True),
    ]


def _rotations(shape: Shape, settings: PlanSettings, choice: Choice) -> PlanRow:
    """Sine and cosine of every token's position."""
    tokens = answer_pass_tokens(settings, choice)
    return PlanRow("rotations", tokens * 2 * shape.head_dim * settings.weight_bytes, is_transient=True)


def _layer_inputs_bytes(shape: Shape, settings: PlanSettings, choice: Choice) -> int:
    tokens = answer_pass_tokens(settings, choice)
    tokens += settings.prompt_tokens if shares_prompt(settings, choice) else 0
    return shape.num_hidden_layers * tokens * waiting_bytes(shape, settings, choice)


def _waiting_gradient(shape: Shape, settings: PlanSettings) -> list[PlanRow]:
    """The gradient of a head that is the embedding, too, waits for the other half."""
    if settings.method != "full" or not shape.tie_word_embeddings:
        return []
    amount = shape.vocab_size * shape.hidden_size * settings.weight_bytes
    return [PlanRow("the head's gradient, which the embedding's joins", amount, is_transient=True)]
