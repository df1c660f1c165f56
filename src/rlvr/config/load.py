"""params.yaml as one frozen, strict, typed object. It knows no defaults: every value stands in the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from rlvr.config.base import Section
from rlvr.config.data import Prepare
from rlvr.config.model import Compute, Model
from rlvr.config.scoring import Reward, Verifiers, check_rubric
from rlvr.config.secrets import REMEDY, secrets_in
from rlvr.config.training import VLLM_TEMPERATURES, Evaluate, Grpo, Memory, Report, Rollout, Sft
from rlvr.runtime.files import json_sha256, read_text
from rlvr.types import UserError, nearest

PARAMS_FILE = Path("params.yaml")
MOST_LEVELS, MOST_VALUES = 64, 100_000  # of a YAML file that people write


class Config(Section):
    """The whole of params.yaml."""

    compute: Compute
    model: Model
    prepare: Prepare
    sft: Sft
    rollout: Rollout
    rewards: dict[str, Reward]
    verifiers: Verifiers
    grpo: Grpo
    memory: Memory
    evaluate: Evaluate
    report: Report

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        longest = self.prepare.max_prompt_tokens + self.rollout.max_completion_tokens
        if self.memory.tokens_per_micro_batch < longest:
            raise ValueError(
                f"memory.tokens_per_micro_batch {self.memory.tokens_per_micro_batch} cannot hold one sequence: "
                f"prepare.max_prompt_tokens + rollout.max_completion_tokens = {longest}; raise it to at least that"
            )
        if self.sft.enabled and not (self.prepare.sft_problems and self.prepare.dev_problems):
            raise ValueError(
                f"sft.enabled needs prepare.sft_problems {self.prepare.sft_problems} and prepare.dev_problems "
                f"{self.prepare.dev_problems} to be at least 1; set sft.enabled to false to go without"
            )
        if self.compute.dtype in ("bfloat16", "float16") and self.model.adapter == "none":
            raise ValueError(
                f"compute.dtype {self.compute.dtype} cannot train all weights, which would lose small updates: set "
                "model.adapter to lora, whose own weights stay in float32, or compute.dtype to float32"
            )
        largest = max(self.grpo.completions_per_prompt, self.evaluate.samples_per_problem)
        if self.rollout.max_rows < largest:
            raise ValueError(
                f"rollout.max_rows {self.rollout.max_rows} cannot hold the completions of one prompt "
                f"(grpo.completions_per_prompt, evaluate.samples_per_problem: {largest}); raise it to at least that"
            )
        coldest, hottest = VLLM_TEMPERATURES
        for section, temperature in (("rollout", self.rollout.temperature), ("evaluate", self.evaluate.temperature)):
            if self.rollout.sampler == "vllm" and not coldest <= temperature <= hottest:
                raise ValueError(
                    f"{section}.temperature {temperature} is not between {coldest} and {hottest}, where vllm samples: "
                    "change it, or use rollout.sampler native"
                )
        check_rubric(self.rewards, max_completion_tokens=self.rollout.max_completion_tokens)
        return self

    def restricted(self, sections: Sequence[str]) -> Config:
        """A copy in which reading any section but these raises AttributeError."""
        copy = self.model_copy()
        for name in set(type(self).model_fields) - set(sections):
            del copy.__dict__[name]
        return copy

    def digest(self, *sections: str) -> str:
        """A hash of the values of `sections`: equal exactly when they are."""
        return json_sha256({name: self.model_dump()[name] for name in sections})


def read_yaml(path: Path) -> Any:
    """Parse a YAML file. Raises UserError."""
    return parse_yaml(read_params(path), str(path))


def read_params(path: Path = PARAMS_FILE) -> str:
    """The text of params.yaml. Raises UserError: where a project is above this folder, with the folder to run in."""
    if path.exists():
        return read_text(path)
    top = next((f for f in Path.cwd().parents if (f / PARAMS_FILE).is_file() and (f / "dvc.yaml").is_file()), None)
    raise UserError(f"{path} does not exist here; run from the top of the project" + (f": cd {top}" if top else ""))


def parse_yaml(text: str, name: str) -> Any:
    """Parse YAML 1.2, in which 1e-05 is a number (`dvc exp run -S` writes it so). Raises UserError naming `name`."""
    try:
        values = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise UserError(f"{name} is not valid YAML:\n{error}") from None
    except RecursionError:
        raise _too_deep(name) from None
    except (ValueError, KeyError) as error:  # a date that does not exist, `!!int x`, thousands of digits
        raise UserError(f"{name} is not valid YAML: a value cannot be read ({error})") from None
    _check_size(values, name)
    try:
        json.dumps(values, ensure_ascii=False, default=str, skipkeys=True).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise UserError(f"{name} holds {half}, half of a character: write the text without it") from None
    except ValueError as error:  # a number of thousands of digits in another base
        raise UserError(f"{name} is not valid YAML: a value cannot be read ({error})") from None
    return values


def _check_size(value: Any, name: str) -> None:
    """Raise UserError for nodes that hold themselves, and for so many or so deep ones that a program wrote them."""
    todo, size = [value], 0
    for _ in range(MOST_LEVELS):
        inside = [
            list(item.values()) if isinstance(item, dict) else item for item in todo if isinstance(item, dict | list)
        ]
        size += sum(map(len, inside))
        if size > MOST_VALUES:
            raise UserError(
                f"{name} holds more than {MOST_VALUES:,} values: aliases (*name) repeat what they stand for"
            )
        todo = [item for items in inside for item in items]
    if todo:
        raise _too_deep(name)


def _too_deep(name: str) -> UserError:
    return UserError(
        f"{name} nests more than {MOST_LEVELS} levels deep, or a value holds itself through an alias (*name within its "
        "own &name): write it flat"
    )


def load_config(path: Path = PARAMS_FILE) -> Config:
    """Read and check params.yaml. Raises UserError with every problem found: key, value, what is allowed."""
    return _check(read_yaml(path), str(path))


def check_config(text: str, name: str) -> Config:
    """The same for the text of a params.yaml that `name` would give."""
    return _check(parse_yaml(text, name), name)


def _check(raw: Any, name: str) -> Config:
    if not isinstance(raw, dict):
        raise UserError(f"{name} must be a mapping of sections, found {type(raw).__name__}")
    if secrets := list(secrets_in(raw)):
        raise UserError("\n".join([f"{name} holds a secret:", *(f"  {key}: {REMEDY}" for key in secrets)]))
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(dict(problem)) for problem in error.errors()]
        raise UserError("\n".join([f"{name} has {len(lines)} problem(s):", *lines])) from None


def _explain(problem: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "params.yaml"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        siblings = _fields_at(problem["loc"][:-1])
        return f"  {key}: unknown key; allowed here: {', '.join(siblings)}{nearest(str(problem['loc'][-1]), siblings)}"
    if problem["type"] == "missing":
        return f"  {key}: missing; add it (the default params.yaml shows a value)"
    if problem["type"] == "value_error":
        return f"  {key}: {message}" if problem["loc"] else f"  {message}"  # without a place it names its own key
    value = problem["input"]
    hint = (
        nearest(value, problem["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", "))
        if (problem["type"] == "literal_error" and isinstance(value, str))
        else ""
    )
    return f"  {key}: {value!r} ({type(value).__name__}): {message}{hint}"


def _fields_at(location: tuple[str | int, ...]) -> list[str]:
    section: Any = Config
    for part in location:
        field = section.model_fields.get(part) if hasattr(section, "model_fields") else None
        if field is None:  # inside the rewards mapping
            return list(Reward.model_fields)
        section = field.annotation
    return list(section.model_fields) if hasattr(section, "model_fields") else list(Reward.model_fields)
