"""Shapes: each against its published parameter count and against transformers' own model of that config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.plan.shapes import FAMILIES, REQUIRED, Shape, all_shapes, find_shape, names, read_shape, shape_of
from rlvr.types import UserError

FOLDER = Path(__file__).parents[2] / "presets" / "shapes"
PUBLISHED = {  # the count that the hub keeps for the safetensors files
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.2-3B": 3_212_749_824,
    "Llama-3.3-70B": 70_553_706_496,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "DeepSeek-R1-0528-Qwen3-8B": 8_190_735_360,
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-3B": 3_085_938_688,
    "Qwen2.5-7B": 7_615_616_512,
    "Gemma-3-1B": 999_885_952,
    "Phi-4": 14_659_507_200,
    "Mistral-7B-v0.3": 7_248_023_552,
    "SmolLM2-135M": 134_515_008,
}
UNPUBLISHED = ("Qwen3-0.6B", "Qwen3-1.7B")  # of these the hub counts a tied head twice


def shape(name: str) -> Shape:
    return find_shape(name, FOLDER)


def on_meta(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def count(model: Any) -> int:
    return sum(weight.numel() for weight in model.parameters())


def test_there_is_a_file_for_each_and_no_other() -> None:
    assert sorted(names(FOLDER)) == sorted([*PUBLISHED, *UNPUBLISHED])


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_formula_gives_the_published_count(name: str) -> None:
    assert shape(name).parameters() == PUBLISHED[name] == shape(name).published_parameters


@pytest.mark.parametrize("name", [*PUBLISHED, *UNPUBLISHED])
def test_transformers_builds_a_model_of_that_count(name: str) -> None:
    values = json.loads((FOLDER / f"{name}.json").read_text())
    kind = values.pop("model_type")
    filler = {"pad_token_id": 0} if kind == "phi3" else {}
    model = on_meta(AutoConfig.for_model(kind, **{key: values[key] for key in values if key in CONFIG_KEYS} | filler))
    assert count(model) == shape(name).parameters()
    linears = {
        key.rsplit(".", 1)[-1]: (layer.in_features, layer.out_features, layer.bias is not None)
        for key, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and ".layers." in key
    }
    assert linears == {x.name: (x.inputs, x.outputs, x.has_bias) for x in shape(name).linears()}


CONFIG_KEYS = (
    *REQUIRED[1:], "num_key_value_heads", "head_dim", "tie_word_embeddings", "sliding_window", "sliding_window_pattern",
)  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    heads=st.sampled_from([2, 4]),
    kv_heads=st.sampled_from([1, 2]),
    width=st.sampled_from([32, 48]),
    layers=st.integers(1, 3),
    is_tied=st.booleans(),
)
def test_any_config_that_transformers_writes_has_its_count(
    family: str, heads: int, kv_heads: int, width: int, layers: int, is_tied: bool, tmp_path_factory: Any
) -> None:
    config = AutoConfig.for_model(
        family, hidden_size=width, num_attention_heads=heads, num_key_value_heads=kv_heads, num_hidden_layers=layers,
        intermediate_size=40, vocab_size=99, tie_word_embeddings=is_tied, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp(family)
    config.save_pretrained(folder)
    read = find_shape(str(folder), FOLDER)
    assert read.parameters() == count(on_meta(config))
    assert (read.name, read.is_known, read.max_position_embeddings) == (folder.name, True, 64)


def test_an_adapter_has_the_weights_that_peft_makes() -> None:
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    for name in ("SmolLM2-135M", "Qwen2.5-0.5B"):
        values = json.loads((FOLDER / f"{name}.json").read_text())
        model = on_meta(
            AutoConfig.for_model(values["model_type"], **{key: values[key] for key in values if key in CONFIG_KEYS})
        )
        with torch.device("meta"):
            adapted = get_peft_model(model, LoraConfig(r=32, target_modules="all-linear", task_type="CAUSAL_LM"))
        trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
        assert trained == shape(name).adapter_parameters(32)


def test_an_adapter_of_rank_32_on_llama_8b() -> None:
    assert shape("Llama-3.1-8B").adapter_parameters(32) == 83_886_080


@pytest.mark.parametrize(
    "spelling", ["Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", "meta-llama/Meta-Llama-3.1-8B"]
)
def test_hub_names_and_tunings_are_understood(spelling: str) -> None:
    assert shape(spelling).name == "Llama-3.1-8B"


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown shape 'Llama-3.1-8C', .*; known: .*did you mean Llama-3\.1-8B\?"):
        shape("Llama-3.1-8C")


def test_smallest_first() -> None:
    assert (names(FOLDER)[0], names(FOLDER)[-1]) == ("SmolLM2-135M", "Llama-3.3-70B")
    assert len(all_shapes(FOLDER)) == len(PUBLISHED) + len(UNPUBLISHED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "hidden_size is None; it must be a whole number above 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"vocab_size": "32K"}, "vocab_size is '32K'"),
        ({"num_key_value_heads": True}, "num_key_value_heads is True"),
    ],
)
def test_bad_values_are_named(change: dict[str, Any], message: str) -> None:
    values = json.loads((FOLDER / "SmolLM2-135M.json").read_text())
    with pytest.raises(UserError, match=message):
        shape_of(values | change, name="x", where="config.json")


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(key: str) -> None:
    values = json.loads((FOLDER / "SmolLM2-135M.json").read_text())
    del values[key]
    with pytest.raises(UserError, match=f"config.json: {key} is missing"):
        shape_of(values, name="x", where="config.json")


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_file_that_is_no_config(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json"):
        read_shape(tmp_path / "config.json")


def test_an_unknown_model_type_is_planned_as_a_llama_and_says_so() -> None:
    values = json.loads((FOLDER / "SmolLM2-135M.json").read_text())
    other = shape_of(values | {"model_type": "olmo2"}, name="x", where="config.json")
    assert not other.is_known and other.parameters() == PUBLISHED["SmolLM2-135M"]


def test_a_config_file_a_shape_from_another_folder_and_a_model_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (FOLDER / "Qwen3-4B.json").read_text(encoding="utf-8")
    (tmp_path / "mine.json").write_text(config, encoding="utf-8-sig")
    snapshot = tmp_path / "hub/models--Some--Qwen3-9B/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(config, encoding="utf-8")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("abc", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    assert find_shape(str(tmp_path / "mine.json")).name == "mine"
    assert find_shape("Qwen2.5-1.5B").name == "Qwen2.5-1.5B"
    assert find_shape("Some/Qwen3-9B").name == "Qwen3-9B"
    assert find_shape("Some/Qwen3-9B").parameters() == find_shape("mine.json").parameters()


def test_a_hub_name_that_cannot_be_read_says_how_to_add_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set(?s:.*)presets/shapes/Nowhere-8B\.json") as caught:
        find_shape("No/Nowhere-8B")
    assert "rlvr plan path/to/config.json" in str(caught.value)


@pytest.mark.parametrize("text", ["[]", '{"text_config": 3}', "{", '{"model_type": "llama"}', "\x00"])
def test_a_config_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json"):
        find_shape(str(tmp_path))
