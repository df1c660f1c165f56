"""params.yaml as one frozen, strict, typed object. It knows no defaults: every value stands in the file."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from rlvr.chat import TAGS, Tags
from rlvr.rewards import FUNCTIONS, check_options
from rlvr.tasks.filters import check_filters
from rlvr.types import AdvantageMethod, Correction, LossSpec, LossType, Schedule, UserError

PARAMS_FILE = Path("params.yaml")

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0)]
Name = Annotated[str, Field(min_length=1)]
NonNegative = Annotated[float, Field(ge=0.0)]
Momentum = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Compute(Section):
    seed: Annotated[int, Field(ge=0)]
    threads: Positive
    device: Literal["auto", "cpu", "cuda", "mps"]
    dtype: Literal["float32", "bfloat16"]


class Scratch(Section):
    architecture: Literal["llama", "qwen3"]
    hidden_size: Positive
    layers: Positive
    heads: Positive
    kv_heads: Positive
    intermediate_size: Positive

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.hidden_size % self.heads or self.hidden_size // self.heads < 32 or self.hidden_size // self.heads % 2:
            raise ValueError(
                f"hidden_size / heads = {self.hidden_size / self.heads:g} must be an even whole number of at least 32; "
                f"for hidden_size {self.hidden_size} take heads {max(1, self.hidden_size // 32)} or fewer"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        return self


class Lora(Section):
    rank: Positive
    alpha: Positive


class Template(Section):
    tags: str | dict[str, str]
    system_prompt: str | None
    open_in_prompt: bool

    @model_validator(mode="after")
    def _tags_exist(self) -> Self:
        self.resolve()
        return self

    def resolve(self) -> Tags:
        """The four tags that `tags` names or spells out. Raises ValueError."""
        if isinstance(self.tags, str):
            if self.tags not in TAGS:
                raise ValueError(f"tags {self.tags!r} is not one of {', '.join(TAGS)}{_nearest(self.tags, TAGS)}")
            return TAGS[self.tags]
        return Tags.of(self.tags)

    @property
    def opening(self) -> str:
        """What the prompt gives away of the completion: the opening reasoning tag, or nothing."""
        return self.resolve().reasoning_start if self.open_in_prompt else ""


class Model(Section):
    source: Name
    revision: str | None
    scratch: Scratch
    adapter: Literal["none", "lora"]
    lora: Lora
    template: Template


class Arithmetic(Section):
    min_level: Annotated[int, Field(ge=1, le=9)]
    max_level: Annotated[int, Field(ge=1, le=9)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_level > self.max_level:
            raise ValueError(f"min_level {self.min_level} must not be above max_level {self.max_level}")
        return self


class Gsm8k(Section):
    source: Name
    revision: str | None
    max_steps: Positive | None


class Columns(Section):
    question: Name
    answer: Name
    working: Name | None
    solution: Name | None
    level: Name | None


class Records(Section):
    source: Name
    subset: str | None
    split: Name
    revision: str | None
    evaluation_source: Name | None
    evaluation_split: Name | None
    evaluation_revision: str | None
    columns: Columns
    filters: dict[str, dict[Literal["min", "max", "in", "not_empty"], bool | float | list[bool | float | str]]]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.evaluation_source == self.source and self.evaluation_split in (None, self.split):
            raise ValueError(
                f"evaluation_source {self.source!r} is the source itself: give other data, or null to hold out a part"
            )
        check_filters(self.filters)
        return self


class Prepare(Section):
    task: Literal["arithmetic", "gsm8k", "records"]
    train_problems: Positive | None
    sft_problems: Annotated[int, Field(ge=0)]
    dev_problems: Annotated[int, Field(ge=0)]
    evaluation_problems: Positive
    max_prompt_tokens: Positive
    few_shot: Annotated[int, Field(ge=0)]
    long_prompts: Literal["drop", "truncate"]
    arithmetic: Arithmetic
    gsm8k: Gsm8k
    records: Records

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.task == "arithmetic" and self.train_problems is None:
            raise ValueError(
                "train_problems null means all that are left, and task arithmetic has no end of them: "
                "give a number, for example 4000"
            )
        worked = self.sft_problems or self.few_shot
        if self.task == "records" and worked and self.records.columns.working is None:
            raise ValueError(
                f"sft_problems {self.sft_problems} and few_shot {self.few_shot} need worked solutions: name their "
                "column in prepare.records.columns.working, or set both to 0 and sft.enabled to false"
            )
        return self


class Sft(Section):
    enabled: bool
    max_steps: Positive
    batch_size: Positive
    learning_rate: Rate
    warmup_steps: Annotated[int, Field(ge=0)]
    beta2: Momentum
    weight_decay: NonNegative
    max_grad_norm: Rate
    check_every: Positive
    stop_accuracy: Share | None
    stop_format_rate: Share | None


class Rollout(Section):
    temperature: Rate
    max_completion_tokens: Positive
    max_rows: Positive


class Reward(Section):
    weight: float
    options: dict[str, float]


class Grpo(Section):
    steps: Annotated[int, Field(ge=0)] | None
    epochs: Positive | None
    prompts_per_step: Positive
    completions_per_prompt: Annotated[int, Field(ge=2)]
    minibatches_per_rollout: Positive
    passes_per_rollout: Positive
    learning_rate: Rate
    warmup_steps: Annotated[int, Field(ge=0)]
    schedule: Schedule
    beta1: Momentum
    beta2: Momentum
    weight_decay: NonNegative
    max_grad_norm: Rate
    loss_type: LossType
    epsilon: Annotated[float, Field(gt=0.0, lt=1.0)]
    epsilon_high: Rate | None
    delta: Rate | None
    beta: NonNegative
    kl_unbiased: bool
    importance_correction: Correction
    importance_min: Annotated[float, Field(gt=0.0, le=1.0)] | None
    importance_max: Annotated[float, Field(ge=1.0)]
    entropy_bonus: NonNegative
    advantage: AdvantageMethod
    scale_rewards: Literal["group", "batch", "none"]
    dynamic_sampling: Annotated[int, Field(ge=0)]
    mask_truncated_completions: bool
    checkpoint_every: Positive
    log_completions_every: Positive

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"set exactly one of steps ({self.steps}) and epochs ({self.epochs}); the other is null")
        if self.prompts_per_step % self.minibatches_per_rollout:
            raise ValueError(
                f"minibatches_per_rollout {self.minibatches_per_rollout} must divide prompts_per_step "
                f"{self.prompts_per_step}: a group is never split over optimizer steps"
            )
        if self.loss_type == "cispo" and (self.epsilon_high is None or self.epsilon_high < 1.0):
            raise ValueError(
                f"with loss_type cispo, epsilon_high ({self.epsilon_high}) is an absolute cap on the ratio "
                "and must be at least 1, for example 5.0"
            )
        if self.delta is not None and self.delta < 1.0 + self.clip_high:
            raise ValueError(
                f"delta {self.delta} must be at least 1 + epsilon_high = {1.0 + self.clip_high:g}, or null"
            )
        return self

    @property
    def clip_high(self) -> float:
        return self.epsilon if self.epsilon_high is None else self.epsilon_high

    def num_steps(self, num_problems: int) -> int:
        """Rollouts of the run, from `steps` or from `epochs` over `num_problems`."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return -(-self.epochs * num_problems // self.prompts_per_step)


class Memory(Section):
    tokens_per_micro_batch: Positive


class Evaluate(Section):
    samples_per_problem: Positive
    temperature: Rate
    bootstrap_resamples: Positive


class Report(Section):
    examples: Annotated[int, Field(ge=0)]


class Config(Section):
    """The whole of params.yaml."""

    compute: Compute
    model: Model
    prepare: Prepare
    sft: Sft
    rollout: Rollout
    rewards: dict[str, Reward]
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
        largest = max(self.grpo.completions_per_prompt, self.evaluate.samples_per_problem)
        if self.rollout.max_rows < largest:
            raise ValueError(
                f"rollout.max_rows {self.rollout.max_rows} cannot hold the completions of one prompt "
                f"(grpo.completions_per_prompt, evaluate.samples_per_problem: {largest}); raise it to at least that"
            )
        for name, reward in self.rewards.items():
            if name not in FUNCTIONS:
                raise ValueError(
                    f"rewards.{name}: no such reward function; there are {', '.join(FUNCTIONS)}"
                    f"{_nearest(name, FUNCTIONS)}"
                )
            check_options(name, reward.options, max_completion_tokens=self.rollout.max_completion_tokens)
        if not any(reward.weight for reward in self.rewards.values()):
            raise ValueError("rewards: at least one reward function needs a weight other than 0")
        return self

    def loss_spec(self) -> LossSpec:
        return LossSpec(
            loss_type=self.grpo.loss_type,
            epsilon=self.grpo.epsilon,
            epsilon_high=self.grpo.clip_high,
            delta=self.grpo.delta,
            beta=self.grpo.beta,
            kl_unbiased=self.grpo.kl_unbiased,
            importance_correction=self.grpo.importance_correction,
            importance_min=self.grpo.importance_min,
            importance_max=self.grpo.importance_max,
            entropy_bonus=self.grpo.entropy_bonus,
            max_completion_tokens=self.rollout.max_completion_tokens,
            temperature=self.rollout.temperature,
        )

    def restricted(self, sections: Sequence[str]) -> Config:
        """A copy in which reading any section but these raises AttributeError."""
        copy = self.model_copy()
        for name in set(type(self).model_fields) - set(sections):
            del copy.__dict__[name]
        return copy

    def digest(self, *sections: str) -> str:
        """A hash of the values of `sections`: equal exactly when they are."""
        values = {name: self.model_dump()[name] for name in sections}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_yaml(path: Path) -> Any:
    """Parse a YAML file. Raises UserError."""
    try:
        return parse_yaml(path.read_text(), str(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist here; run from the top of the project") from None


def parse_yaml(text: str, name: str) -> Any:
    """Parse YAML 1.2, in which 1e-05 is a number (`dvc exp run -S` writes it so). Raises UserError naming `name`."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise UserError(f"{name} is not valid YAML:\n{error}") from None


def load_config(path: Path = PARAMS_FILE) -> Config:
    """Read and check params.yaml. Raises UserError with every problem found: key, value, what is allowed."""
    return _check(read_yaml(path), str(path))


def check_config(text: str, name: str) -> Config:
    """The same for the text of a params.yaml that `name` would give."""
    return _check(parse_yaml(text, name), name)


def _check(raw: Any, name: str) -> Config:
    if not isinstance(raw, dict):
        raise UserError(f"{name} must be a mapping of sections, found {type(raw).__name__}")
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(dict(problem), raw) for problem in error.errors()]
        raise UserError("\n".join([f"{name} has {len(lines)} problem(s):", *lines])) from None


def _explain(problem: dict[str, Any], raw: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "params.yaml"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        siblings = _fields_at(problem["loc"][:-1])
        return f"  {key}: unknown key; allowed here: {', '.join(siblings)}{_nearest(str(problem['loc'][-1]), siblings)}"
    if problem["type"] == "missing":
        return f"  {key}: missing; add it (the default params.yaml shows a value)"
    if problem["type"] == "value_error":
        return f"  {key}: {message}"
    found = problem["input"]
    hint = (
        _nearest(found, problem["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", "))
        if (problem["type"] == "literal_error" and isinstance(found, str))
        else ""
    )
    return f"  {key}: {found!r} ({type(found).__name__}): {message}{hint}"


def _fields_at(location: tuple[str | int, ...]) -> list[str]:
    section: Any = Config
    for part in location:
        field = section.model_fields.get(part) if hasattr(section, "model_fields") else None
        if field is None:  # inside the rewards mapping
            return list(Reward.model_fields)
        section = field.annotation
    return list(section.model_fields) if hasattr(section, "model_fields") else list(Reward.model_fields)


def _nearest(name: str, allowed: Any) -> str:
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f"; did you mean {close[0]}?" if close else ""
