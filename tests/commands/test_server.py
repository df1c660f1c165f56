"""The server's command, and a chat template that asks as training did."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvr.chat import CHAT_TEMPLATE, messages, render_prompt
from rlvr.commands.server import Served, command, curl, environment, serving_template, write_files
from rlvr.types import UserError

SERVED = Served(
    name="grpo", base="org/base", revision=None, tokenizer=Path("data/prepared/base"), adapter=None, rank=16,
    dtype="bfloat16", is_nf4=False, is_cuda=True, host="127.0.0.1", port=8000, max_model_len=None, cache_gib=1,
)  # fmt: skip
FILES = Path("files")
WITHOUT_SYSTEM = (  # Gemma's manner: a system prompt is refused, turns alternate, texts are trimmed
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system prompt') }}{% endif %}"
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] | trim }}{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)
DROPS_SYSTEM = (
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "<{{ message['role'] }}>{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)
EARLIER = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": 'It\'s "2"\n{{ no }} {% code %} é'}]


def option(line: list[str], name: str) -> str:
    return line[line.index(name) + 1]


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, WITHOUT_SYSTEM, f"\n{DROPS_SYSTEM}\n  ", f"{DROPS_SYSTEM}\n"])
@pytest.mark.parametrize("system_prompt", [None, "Think, then \"answer\" {{ so }}.\nIn 'two' lines; ünïcode"])
@pytest.mark.parametrize("earlier", [[], EARLIER], ids=["zero-shot", "few-shot"])
@pytest.mark.parametrize("opening", ["", "<think>\n"])
def test_a_question_alone_becomes_the_prompt_of_training(
    tokenizer: Any, template: str, system_prompt: str | None, earlier: list[dict[str, str]], opening: str
) -> None:
    own = tokenizer.chat_template
    try:
        tokenizer.chat_template = template
        how: Any = {"system_prompt": system_prompt, "opening": opening, "earlier": earlier}
        made = serving_template(tokenizer, **how)
        for question in ("What is 2+2?", "{{ messages }} \"'\\n"):
            chat = messages(question, None)
            text = tokenizer.apply_chat_template(chat, chat_template=made, tokenize=False, add_generation_prompt=True)
            assert text == render_prompt(tokenizer, question, **how)
    finally:
        tokenizer.chat_template = own


def test_a_system_prompt_of_the_client_takes_the_place_of_trainings(tokenizer: Any) -> None:
    made = serving_template(tokenizer, system_prompt="training's", opening="<o>", earlier=EARLIER)
    chat = messages("q", "client's")
    text = tokenizer.apply_chat_template(chat, chat_template=made, tokenize=False, add_generation_prompt=True)
    assert text == tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) + "<o>"


def test_a_template_that_cannot_be_extended_is_said(tokenizer: Any) -> None:
    own = tokenizer.chat_template
    try:
        tokenizer.chat_template = "{{ strftime_now('%f') }}"  # another text each microsecond
        with pytest.raises(UserError, match="cannot be extended"):
            serving_template(tokenizer, system_prompt=None, opening="<o>", earlier=[])
    finally:
        tokenizer.chat_template = own


def test_an_adapter_is_a_model_beside_its_base() -> None:
    line = command(replace(SERVED, adapter=Path("models/grpo"), rank=12, revision="abc"), FILES, ["--seed", "3"])
    assert option(line, "--model") == "org/base"
    assert option(line, "--revision") == "abc"
    assert option(line, "--lora-modules") == "grpo=models/grpo"
    assert option(line, "--max-lora-rank") == "16"
    assert option(line, "--served-model-name") == "grpo-base"
    assert line[-2:] == ["--seed", "3"]
    with pytest.raises(UserError, match="rank 1000"):
        command(replace(SERVED, adapter=Path("a"), rank=1000), FILES, [])


def test_whole_weights_are_the_model_itself() -> None:
    line = command(replace(SERVED, base="models/grpo", max_model_len=77), FILES, [])
    assert option(line, "--served-model-name") == "grpo"
    assert option(line, "--max-model-len") == "77"
    assert not {"--enable-lora", "--quantization", "--revision", "--enforce-eager"} & set(line)
    assert option(command(replace(SERVED, is_nf4=True), FILES, []), "--quantization") == "bitsandbytes"
    assert "--enforce-eager" in command(replace(SERVED, is_cuda=False), FILES, [])


def test_what_the_user_has_set_in_the_environment_stays() -> None:
    on_cpu = replace(SERVED, is_cuda=False, cache_gib=3)
    assert environment(on_cpu, {})["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert environment(on_cpu, {"VLLM_CPU_KVCACHE_SPACE": "9", "A": "b"})["VLLM_CPU_KVCACHE_SPACE"] == "9"
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment(SERVED, {})


def test_requests_that_say_nothing_are_sampled_as_in_training(tmp_path: Path) -> None:
    write_files(tmp_path / "new", "template", [3, 5], 0.7)
    generation = json.loads((tmp_path / "new" / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [3, 5], "temperature": 0.7, "top_p": 1.0, "top_k": 0}
    assert (tmp_path / "new" / "chat_template.jinja").read_text() == "template"


def test_the_line_for_a_shell_is_a_request() -> None:
    line = curl(SERVED)
    assert "http://127.0.0.1:8000/v1/chat/completions" in line
    body = json.loads(line[line.index("-d '") + 4 : -1])
    assert body["model"] == "grpo"
