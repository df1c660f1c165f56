"""params.yaml: what is read, and that whatever is wrong with it is said with key, value and what is allowed."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

import rlvr.config
from rlvr.chat import TAGS, Tags, tags_of
from rlvr.config import Config, load_config
from rlvr.config.base import Section
from rlvr.grpo import loss_spec
from rlvr.problems.draw import num_steps
from rlvr.types import UserError

PARAMS = Path(__file__).parents[2] / "params.yaml"
MakeParams = Callable[..., dict[str, Any]]
MakeConfig = Callable[..., Config]


@pytest.fixture
def complaint(make_params: MakeParams, tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    """What load_config says about the default file with these changes."""

    def load(changes: dict[str, Any]) -> str:
        path = tmp_path / "params.yaml"
        YAML(typ="safe", pure=True).dump(make_params(changes), path)
        with pytest.raises(UserError) as caught:
            load_config(path)
        return str(caught.value).replace(str(path), "params.yaml")

    return load


def test_the_default_file_loads() -> None:
    cfg = load_config(PARAMS)
    assert cfg.compute.seed == 0
    assert list(cfg.rewards) == ["format_exact", "format_approximate", "answer", "number"]


def test_values_are_frozen(make_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match="frozen"):
        make_config().grpo.steps = 5


# key and value that are changed; what the message must hold
REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown section": (
        {"grop": {}},
        ["grop: unknown key", "allowed here: compute, model, prepare", "did you mean grpo?"],
    ),
    "unknown key": (
        {"grpo.learning_rat": 0.1},
        ["grpo.learning_rat: unknown key", "prompts_per_step", "did you mean learning_rate?"],
    ),
    "unknown key two levels down": (
        {"model.scratch.hiden_size": 64},
        ["model.scratch.hiden_size: unknown key", "kv_heads", "did you mean hidden_size?"],
    ),
    "unknown key of a reward": (
        {"rewards.number.wieght": 1.0},
        ["rewards.number.wieght: unknown key; allowed here: weight, options, function, python", "did you mean weight?"],
    ),
    "unknown key near nothing": ({"sft.zzzz": 1}, ["sft.zzzz: unknown key; allowed here: enabled"]),
    "sampling from a part of the distribution": (
        {"rollout.top_p": 0.9},
        ["rollout: top_p: sampling from a part of the distribution is refused", "temperature"],
    ),
    "no gap at all": ({"rollout.max_logp_gap": 0.0}, ["rollout.max_logp_gap: 0.0 is neither auto, null nor a number"]),
    "number as a string": (
        {"grpo.learning_rate": "1e-5"},
        ["grpo.learning_rate: '1e-5' (str)", "valid number"],
    ),
    "float for a count": ({"grpo.prompts_per_step": 8.5}, ["grpo.prompts_per_step: 8.5 (float)", "valid integer"]),
    "boolean for a count": ({"compute.seed": True}, ["compute.seed: True (bool)", "valid integer"]),
    "string for a boolean": ({"sft.enabled": "yes"}, ["sft.enabled: 'yes' (str)", "valid boolean"]),
    "list for a section": ({"evaluate": [1]}, ["evaluate: [1] (list)"]),
    "not a number": ({"grpo.beta": math.nan}, ["grpo.beta: nan (float)", "finite number"]),
    "null where a value is needed": ({"rollout.temperature": None}, ["rollout.temperature: None (NoneType)"]),
    "temperature zero": ({"rollout.temperature": 0.0}, ["rollout.temperature: 0.0 (float)", "greater than 0"]),
    "below the least": ({"rollout.max_rows": 0}, ["rollout.max_rows: 0 (int)", "greater than or equal to 1"]),
    "colder than the engine samples": (
        {"rollout.sampler": "vllm", "rollout.temperature": 0.005},
        ["rollout.temperature 0.005 is not between 0.01 and 2.0, where vllm samples", "rollout.sampler native"],
    ),
    "hotter than the engine samples": (
        {"rollout.sampler": "vllm", "evaluate.temperature": 2.5},
        ["evaluate.temperature 2.5 is not between 0.01 and 2.0, where vllm samples"],
    ),
    "a share of the weights": (
        {"rollout.vllm.share_weights": "on"},
        ["rollout.vllm.share_weights: 'on' (str)", "'auto' or 'off'"],
    ),
    "no cache": ({"rollout.vllm.kv_cache_gib": 0.0}, ["rollout.vllm.kv_cache_gib: 0.0 (float)", "greater than 0"]),
    "no such choice": (
        {"grpo.loss_type": "dr_grop"},
        ["grpo.loss_type: 'dr_grop' (str)", "'dapo', 'cispo', 'gspo' or 'sapo'", "did you mean dr_grpo?"],
    ),
    "no such scale": ({"grpo.scale_rewards": "groups"}, ["grpo.scale_rewards: 'groups'", "did you mean group?"]),
    "no such schedule": ({"grpo.schedule": "cosin"}, ["grpo.schedule: 'cosin' (str)", "did you mean cosine?"]),
    "no such advantage": ({"grpo.advantage": "rlo"}, ["grpo.advantage: 'rlo' (str)", "did you mean rloo?"]),
    "rounds below zero": ({"grpo.dynamic_sampling": -1}, ["grpo.dynamic_sampling: -1 (int)", "or equal to 0"]),
    "momentum of one": ({"grpo.beta1": 1.0}, ["grpo.beta1: 1.0 (float)", "less than 1"]),
    "momentum of one in sft": ({"sft.beta2": 1.0}, ["sft.beta2: 1.0 (float)", "less than 1"]),
    "no such correction": (
        {"grpo.importance_correction": "token_trunc"},
        ["grpo.importance_correction: 'token_trunc' (str)", "did you mean token_truncate?"],
    ),
    "a correction that would weigh an exact engine": (
        {"grpo.importance_max": 0.9},
        ["grpo.importance_max: 0.9 (float)", "greater than or equal to 1"],
    ),
    "a correction that would drop an exact engine": (
        {"grpo.importance_min": 1.1},
        ["grpo.importance_min: 1.1 (float)", "less than or equal to 1"],
    ),
    "a bonus below zero": (
        {"grpo.entropy_bonus": -0.01},
        ["grpo.entropy_bonus: -0.01 (float)", "greater than or equal to 0"],
    ),
    "a group of one": (
        {"grpo.completions_per_prompt": 1},
        ["grpo.completions_per_prompt: 1 (int)", "greater than or equal to 2"],
    ),
    "a budget under one sequence": (
        {"memory.tokens_per_micro_batch": 100, "prepare.max_prompt_tokens": 64, "rollout.max_completion_tokens": 48},
        ["memory.tokens_per_micro_batch 100 cannot hold one sequence", "= 112", "raise it to at least that"],
    ),
    "float16 for all weights": (
        {"compute.dtype": "float16"},
        ["compute.dtype float16 cannot train all weights", "set model.adapter to lora", "compute.dtype to float32"],
    ),
    "bfloat16 for all weights": (
        {"compute.dtype": "bfloat16"},
        ["compute.dtype bfloat16 cannot train all weights", "set model.adapter to lora", "compute.dtype to float32"],
    ),
    "an output as the model": (
        {"model.source": "models/grpo"},
        ["model: source 'models/grpo' is in models", "cp -r models/grpo data/raw/first"],
    ),
    "an output by another way": (
        {"model.source": "./data/raw/../prepared/base"},
        ["is in data/prepared, which the pipeline writes"],
    ),
    "a share above one": (
        {"model.dynamic_share": 1.5},
        ["model.dynamic_share: 1.5 (float)", "less than or equal to 1"],
    ),
    "no such optimizer": (
        {"memory.optimizer": "adam_8bit"},
        ["memory.optimizer: 'adam_8bit' (str)", "did you mean adamw_8bit?"],
    ),
    "a batch under one group": (
        {"rollout.max_rows": 4},
        ["rollout.max_rows 4 cannot hold the completions of one prompt", ": 8)", "raise it to at least that"],
    ),
    "no such reward": (
        {"rewards.answr": {"weight": 1.0, "options": {}}},
        ["rewards.answr: unknown reward function; known: format_exact", "did you mean answer?"],
    ),
    "options of a reward": (
        {"rewards.number.options": {"right": 1.0, "wrnog": 0.0}},
        ["rewards.number.options must be exactly right, wrong, missing", "missing: wrong, missing", "unknown: wrnog"],
    ),
    "an option that is no number": (
        {"rewards.format_exact.options": {"points": "3"}},
        ["rewards.format_exact.options.points: '3' (str)"],
    ),
    "a penalty that begins before the first token": (
        {"rewards.soft_overlong": {"weight": 1.0, "options": {"max_tokens": 40, "cache_tokens": 41}}},
        ["rewards.soft_overlong.options: cache_tokens 41 must be from 0 to max_tokens 40"],
    ),
    "a cache below zero": (
        {"rewards.soft_overlong": {"weight": 1.0, "options": {"max_tokens": 40, "cache_tokens": -1}}},
        ["rewards.soft_overlong.options: cache_tokens -1 must be from 0 to max_tokens 40"],
    ),
    "a penalty out of reach": (
        {"rewards.soft_overlong": {"weight": 1.0, "options": {"max_tokens": 49, "cache_tokens": 8}}},
        ["max_tokens 49 is above rollout.max_completion_tokens 48", "could never be reached; lower it"],
    ),
    "only weights of zero": (
        {"rewards": {"number": {"weight": 0.0, "options": {"right": 1.0, "wrong": 0.0, "missing": 0.0}}}},
        ["at least one reward function needs a weight other than 0"],
    ),
    "a verdict that takes forever": (
        {"verifiers.seconds": 1e308},
        ["verifiers.seconds: 1e+308 is above 86400 seconds"],
    ),
    "a function that takes forever": (
        {"verifiers.function_seconds": 86401.0},
        ["verifiers.function_seconds: 86401 is above 86400 seconds, a day"],
    ),
    "a program that takes forever": (
        {"verifiers.python.wall_seconds": 1e308, "verifiers.python.cpu_seconds": 1e307},
        ["verifiers.python.wall_seconds: 1e+308 is above", "verifiers.python.cpu_seconds: 1e+307 is above"],
    ),
    "no time at all": ({"verifiers.seconds": 0.0}, ["verifiers.seconds: 0.0 (float): Input should be greater than 0"]),
    "a program's time": (
        {"verifiers.python.cpu_seconds": 6.0},
        ["verifiers.python: cpu_seconds 6 must be below wall_seconds 6"],
    ),
    "a program's output": ({"verifiers.python.output_kib": 9000}, ["verifiers.python: output_kib 9000 must be below"]),
    "a program's memory": ({"verifiers.python.memory_mib": 4096}, ["verifiers: python.memory_mib 4096 is above"]),
    "no such verifier": ({"verifiers.answer": "nubmer"}, ["verifiers: answer: unknown verifier 'nubmer'", "number?"]),
    "options of a judge": (
        {"rewards": {"robotic": {"function": "judge", "weight": 1.0, "options": {"model": "m"}}}},
        ["rewards.robotic.options must be exactly base_url, model"],
    ),
    "two functions in one reward": (
        {"rewards": {"x": {"function": "number", "python": "user/my_rewards.py:robotic", "weight": 1.0}}},
        ["rewards.x: give function (number) or python (user/my_rewards.py:robotic), not both"],
    ),
    "no such file of rewards": (
        {"rewards": {"x": {"python": "user/mine.py:robotic", "weight": 1.0}}},
        ["rewards.x.python: user/mine.py does not exist; the files are user/my_rewards.py"],
    ),
    "no such function in it": (
        {"rewards": {"x": {"python": "user/my_rewards.py:robotc", "weight": 1.0}}},
        ["rewards.x.python: user/my_rewards.py:robotc: the file defines no function", "did you mean robotic?"],
    ),
    "no reward": ({"rewards": {}}, ["at least one reward function needs a weight other than 0"]),
    "cispo with a distance as cap": (
        {"grpo.loss_type": "cispo", "grpo.epsilon_high": 0.28},
        ["grpo: with loss_type cispo, epsilon_high (0.28) is an absolute cap", "at least 1", "for example 5.0"],
    ),
    "cispo without a cap": (
        {"grpo.loss_type": "cispo", "grpo.epsilon_high": None},
        ["epsilon_high (None)", "at least 1"],
    ),
    "delta inside the clip": (
        {"grpo.delta": 1.2, "grpo.epsilon_high": 0.28},
        ["grpo: delta 1.2 must be at least 1 + epsilon_high = 1.28, or null"],
    ),
    "delta inside the clip, epsilon_high from epsilon": (
        {"grpo.delta": 1.2, "grpo.epsilon_high": None, "grpo.epsilon": 0.3},
        ["delta 1.2 must be at least 1 + epsilon_high = 1.3"],
    ),
    "steps and epochs": (
        {"grpo.steps": 10, "grpo.epochs": 2},
        ["grpo: set exactly one of steps (10) and epochs (2); the other is null"],
    ),
    "neither steps nor epochs": (
        {"grpo.steps": None, "grpo.epochs": None},
        ["set exactly one of steps (null) and epochs (null)"],
    ),
    "minibatches that do not divide": (
        {"grpo.minibatches_per_rollout": 5, "grpo.prompts_per_step": 32},
        ["grpo: minibatches_per_rollout 5 must divide prompts_per_step 32"],
    ),
    "no such tags": (
        {"model.template.tags": "thnk"},
        ["model.template: tags 'thnk' is not one of working_out, think, xml, boxed; did you mean think?"],
    ),
    "tags with one missing": (
        {"model.template.tags": {"reasoning_start": "<a>", "reasoning_end": "</a>", "answer_start": "<b>"}},
        ["model.template: tags must have exactly the keys reasoning_start, reasoning_end, answer_start, answer_end"],
    ),
    "tags with one too many": (
        {"model.template.tags": {**{k: f"<{k}>" for k in Tags.__dataclass_fields__}, "extra": "x"}},
        ["tags must have exactly the keys", "found answer_end, answer_start, extra"],
    ),
    "tags that are equal": (
        {"model.template.tags": dict.fromkeys(Tags.__dataclass_fields__, "<a>")},
        ["tags must be four different, non-empty strings"],
    ),
    "a tag that is white space": (
        {"model.template.tags": {**{k: f"<{k}>" for k in Tags.__dataclass_fields__}, "answer_end": "\n"}},
        ["tags must be four different, non-empty strings"],
    ),
    "heads that are too small": (
        {"model.scratch.hidden_size": 64, "model.scratch.heads": 4, "model.scratch.kv_heads": 4},
        ["model.scratch: hidden_size / heads = 16", "at least 32", "use heads 2 or fewer"],
    ),
    "heads that do not divide": (
        {"model.scratch.hidden_size": 100, "model.scratch.heads": 3, "model.scratch.kv_heads": 3},
        ["hidden_size / heads = 33.3333 must be an even whole number"],
    ),
    "groups of queries that do not divide": (
        {"model.scratch.hidden_size": 128, "model.scratch.heads": 4, "model.scratch.kv_heads": 3},
        ["model.scratch: heads 4 must be a multiple of kv_heads 3"],
    ),
    "pre-finetune on nothing": (
        {"prepare.sft_problems": 0},
        ["sft.enabled needs prepare.sft_problems 0 and prepare.dev_problems 256", "set sft.enabled to false"],
    ),
    "pre-finetune that cannot measure itself": ({"prepare.dev_problems": 0}, ["prepare.dev_problems 0 to be at least"]),
    "no evaluation": ({"prepare.evaluation_problems": 0}, ["prepare.evaluation_problems: 0 (int)"]),
    "no such way with long prompts": ({"prepare.long_prompts": "cut"}, ["prepare.long_prompts: 'cut'", "'truncate'"]),
    "worked examples without worked solutions": (
        {"prepare.task": "records", "prepare.records.columns.working": None},
        [
            "prepare: sft_problems 1000 and few_shot 0 need worked solutions",
            "prepare.records.columns.working",
            "sft.enabled to false",
        ],
    ),
    "examples without worked solutions": (
        {
            "prepare.task": "records",
            "prepare.records.columns.working": None,
            "prepare.sft_problems": 0,
            "prepare.few_shot": 2,
            "sft.enabled": False,
        },
        ["prepare: sft_problems 0 and few_shot 2 need worked solutions"],
    ),
    "fewer examples than none": ({"prepare.few_shot": -1}, ["prepare.few_shot: -1 (int)"]),
    "the same data for training and evaluation": (
        {"prepare.records.evaluation_source": "examples/records/unit_conversions.csv"},
        ["prepare.records: evaluation_source 'examples/", "is the source itself", "null to hold out a part"],
    ),
    "no such condition": (
        {"prepare.records.filters": {"level": {"mim": 1}}},
        ["prepare.records.filters.level.mim", "did you mean min?"],
    ),
    "a bound that is no number": (
        {"prepare.records.filters": {"level": {"min": True}}},
        ["prepare.records: filters.level.min: True has the wrong type"],
    ),
    "one value for in": ({"prepare.records.filters": {"level": {"in": 3.0}}}, ["filters.level.in: 3.0 has the wrong"]),
    "not_empty false": ({"prepare.records.filters": {"a": {"not_empty": False}}}, ["not_empty takes true"]),
    "no such task": ({"prepare.task": "gsm8"}, ["prepare.task: 'gsm8' (str)", "did you mean gsm8k?"]),
    "all that are left of arithmetic": (
        {"prepare.train_problems": None},
        ["prepare: train_problems null means all that are left", "arithmetic has no end", "give a number"],
    ),
    "no steps at all": ({"prepare.gsm8k.max_steps": 0}, ["prepare.gsm8k.max_steps: 0 (int)", "greater than or equal"]),
    "levels the wrong way round": (
        {"prepare.arithmetic.min_level": 3, "prepare.arithmetic.max_level": 2},
        ["prepare.arithmetic: min_level 3 must not be above max_level 2"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, complaint: Callable[[dict[str, Any]], str]) -> None:
    changes, parts = REFUSED[case]
    message = complaint(changes)
    assert message.startswith("params.yaml has ")
    for part in parts:
        assert part in message


def test_a_missing_key_is_named(make_params: MakeParams, tmp_path: Path) -> None:
    params = make_params()
    del params["grpo"]["epsilon"]
    del params["report"]
    YAML(typ="safe", pure=True).dump(params, tmp_path / "params.yaml")
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "params.yaml")
    assert "has 2 problem(s)" in str(caught.value)
    assert "grpo.epsilon: missing; add it" in str(caught.value)
    assert "report: missing; add it" in str(caught.value)


def test_several_problems_are_all_shown(complaint: Callable[[dict[str, Any]], str]) -> None:
    message = complaint(
        {
            "compute.threads": 0,
            "grpo.learning_rat": 0.1,
            "model.template.tags": "thnk",
            "model.scratch.kv_heads": 3,
            "rewards.number.weight": "1",
            "sft.batch_size": "32",
        }
    )
    assert message.startswith("params.yaml has 6 problem(s):")
    for key in ("compute.threads", "grpo.learning_rat", "model.template", "model.scratch", "rewards.number.weight"):
        assert f"\n  {key}: " in message
    assert "\n  sft.batch_size: '32' (str)" in message


ACCEPTED: dict[str, dict[str, Any]] = {
    "a whole number for a fraction": {"rollout.temperature": 1, "rewards.format_exact.options": {"points": 3}},
    "zero steps": {"grpo.steps": 0},
    "no worked examples": {"prepare.sft_problems": 0, "prepare.dev_problems": 0, "sft.enabled": False},
    "filters of every kind": {
        "prepare.records.filters": {"a": {"min": 1, "max": 2.5}, "b": {"in": [1, "x", 2.5]}, "c": {"not_empty": True}}
    },
    "no worked solutions": {
        "prepare.task": "records",
        "prepare.records.columns.working": None,
        "prepare.sft_problems": 0,
        "sft.enabled": False,
    },
    "another split of the same data": {
        "prepare.records.evaluation_source": "examples/records/unit_conversions.csv",
        "prepare.records.evaluation_split": "test",
    },
    "all that are left of a table": {"prepare.task": "gsm8k", "prepare.train_problems": None},
    "epochs": {"grpo.steps": None, "grpo.epochs": 2},
    "the least delta": {"grpo.delta": 1.28, "grpo.epsilon_high": 0.28},
    "cispo with a cap": {"grpo.loss_type": "cispo", "grpo.epsilon_high": 5.0},
    "the least budget": {
        "memory.tokens_per_micro_batch": 112,
        "prepare.max_prompt_tokens": 64,
        "rollout.max_completion_tokens": 48,
    },
    "a penalty for length at the limit": {
        "rewards.soft_overlong": {"weight": 1.0, "options": {"max_tokens": 48, "cache_tokens": 48}}
    },
    "a penalty": {"rewards.number.weight": -1.0},
    "grouped queries": {"model.scratch.hidden_size": 128, "model.scratch.heads": 4, "model.scratch.kv_heads": 2},
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case: str, make_config: MakeConfig) -> None:
    make_config(ACCEPTED[case])


@pytest.mark.parametrize("written", ["1e-05", "1e-5", "1.0e-05", "0.00001", "1E-5"])
def test_a_power_of_ten_is_a_number(written: str, tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-05 for a string, and tools write numbers so."""
    lines = PARAMS.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("  learning_rate: 5.0e-4"))
    lines[at] = f"  learning_rate: {written}"
    path = tmp_path / "params.yaml"
    path.write_text("\n".join(lines))
    assert load_config(path).grpo.learning_rate == 1e-5


@pytest.mark.parametrize(
    "text, message",
    [
        ("compute: {seed: 0", "not valid YAML"),
        ("a: 1\na: 2\n", "not valid YAML"),
        ('a: "\\uD83D"', r"holds \\ud83d, half of a character"),
        ("", "must be a mapping of sections, found NoneType"),
        ("- a\n", "must be a mapping of sections, found list"),
        ("a: &a {b: *a}", "holds itself"),
        ("a: &a [1, *a, *a]", "more than 100,000 values"),
        ("a: &a\n  b: [{c: *a}]", "holds itself"),
        ("a: " + "[" * 2000 + "]" * 2000, "more than 64 levels deep"),
        ("a: " + "{b: " * 100 + "1" + "}" * 100, "more than 64 levels deep"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(f"{n}: &{n} [{', '.join([f'*{o}'] * 8)}]\n" for o, n in zip("abcdefgh", "bcdefghi", strict=True)),
            "more than 100,000 values",
        ),
        ("a: 2020-02-30", "a value cannot be read"),
        ("a: !!int x", "a value cannot be read"),
        ("a: !!bool x", "a value cannot be read"),
        ("a: " + "9" * 5000, "a value cannot be read"),
        ("a: 0x" + "f" * 5000, "a value cannot be read"),
    ],
)
def test_a_file_that_is_no_mapping(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / "params.yaml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist here; run from the top of the project"):
        load_config(tmp_path / "params.yaml")


def test_tags_are_resolved(make_config: MakeConfig) -> None:
    own = {key: f"<{key}>" for key in Tags.__dataclass_fields__}
    assert tags_of(make_config({"model.template.tags": own}).model.template) == Tags(**own)
    for name, tags in TAGS.items():
        template = make_config({"model.template.tags": name, "model.template.open_in_prompt": True}).model.template
        assert tags_of(template) == tags


@pytest.mark.parametrize("problems, epochs, steps", [(64, 1, 2), (65, 1, 3), (65, 2, 5), (1, 1, 1)])
def test_epochs_become_steps(problems: int, epochs: int, steps: int, make_config: MakeConfig) -> None:
    cfg = make_config({"grpo.steps": None, "grpo.epochs": epochs, "grpo.prompts_per_step": 32})
    assert num_steps(cfg.grpo, problems) == steps


def test_the_loss_gets_plain_numbers(make_config: MakeConfig) -> None:
    changes: dict[str, Any] = {"grpo.epsilon": 0.1, "grpo.delta": 3, "grpo.beta": 0.04, "rollout.temperature": 0.9}
    changes |= {"grpo.importance_correction": "token_mask", "grpo.importance_min": 0.5, "grpo.importance_max": 2.0}
    spec = loss_spec(make_config(changes | {"grpo.epsilon_high": None}))
    assert (spec.importance_correction, spec.importance_min, spec.importance_max) == ("token_mask", 0.5, 2.0)
    assert (spec.epsilon, spec.epsilon_high, spec.delta, spec.beta, spec.temperature) == (0.1, 0.1, 3, 0.04, 0.9)
    assert spec.max_completion_tokens == make_config().rollout.max_completion_tokens
    assert loss_spec(make_config({"grpo.epsilon_high": 0.28})).epsilon_high == 0.28


class TestRestricted:
    def test_other_sections_cannot_be_read(self, make_config: MakeConfig) -> None:
        cfg = make_config().restricted(["compute", "sft"])
        assert cfg.sft == make_config().sft
        for section in ("model", "grpo", "rewards", "report"):
            with pytest.raises(AttributeError, match=section):
                getattr(cfg, section)

    def test_a_dump_holds_what_may_be_read(self, make_config: MakeConfig) -> None:
        dump = make_config().restricted(["compute", "evaluate"]).model_dump()
        assert dump == {
            key: value for key, value in make_config().model_dump().items() if key in ("compute", "evaluate")
        }

    def test_the_whole_stays_whole(self, make_config: MakeConfig) -> None:
        cfg = make_config()
        cfg.restricted(["compute"])
        assert cfg.grpo.completions_per_prompt


class TestDigest:
    def test_it_depends_on_the_values_of_its_sections_alone(self, make_config: MakeConfig) -> None:
        base = make_config().digest("sft", "compute")
        assert make_config().digest("sft", "compute") == base
        assert make_config({"sft.batch_size": 31}).digest("sft", "compute") != base
        assert make_config({"compute.seed": 1}).digest("sft", "compute") != base
        assert make_config({"grpo.steps": 7}).digest("sft", "compute") == base

    def test_it_is_that_of_a_restricted_copy(self, make_config: MakeConfig) -> None:
        cfg = make_config()
        assert cfg.restricted(["sft", "compute"]).digest("sft", "compute") == cfg.digest("sft", "compute")


def test_sections_hold_values_and_no_behaviour() -> None:
    """The stages do not depend on the package config: an edit of it may change what is refused, and nothing else."""
    sections = {member for module in config_modules() for member in vars(module).values() if is_section(member)}
    assert len(sections) >= 20
    for section in sections:
        behaviour = {
            name
            for name, member in vars(section).items()
            if not name.startswith("_")
            and (
                inspect.isfunction(member)
                or isinstance(member, property | cached_property | classmethod | staticmethod)
            )
        }
        assert behaviour <= {"restricted", "digest"}, f"{section.__name__}: move {behaviour} to where it is used"


def config_modules() -> list[ModuleType]:
    return [importlib.import_module(f"rlvr.config.{info.name}") for info in pkgutil.iter_modules(rlvr.config.__path__)]


def is_section(member: object) -> bool:
    return isinstance(member, type) and issubclass(member, Section)
