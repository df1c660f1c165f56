"""An adapter fits the model that it was made for, of any architecture, and no model of other sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.model.source import Source
from rlvr.model.weights import misfit
from rlvr.types import UserError
from support.tiny_models import FAMILIES, SHAPE


def save_config(family: str, folder: Path, **changes: int) -> Source:
    AutoConfig.for_model(family, **(SHAPE | FAMILIES[family] | changes)).save_pretrained(folder)
    return Source(str(folder), None, None)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_fits_its_own_model_alone(family: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model(family, **(SHAPE | FAMILIES[family]))
    model = get_peft_model(
        AutoModelForCausalLM.from_config(config),
        LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    model.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter/adapter_model.safetensors"
    assert misfit(file, save_config(family, tmp_path / "same")) is None
    said = misfit(file, save_config(family, tmp_path / "wider", intermediate_size=160))
    assert said is not None and ("has 128" in said or "has 256" in said)  # 256: gate and up in one
    said = misfit(file, save_config(family, tmp_path / "shorter", num_hidden_layers=2))
    assert said is not None and "it adapts model.layers.2." in said


def test_a_model_that_cannot_be_built_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(UserError, match="cannot be built"):
        misfit(tmp_path / "adapter.safetensors", Source(str(tmp_path), None, None))
