"""nf4-dynamic through the stages: chosen once, and the same layers in every one of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

from rlvr.config import Config, load_config, parse_yaml
from rlvr.memory.quantized import is_quantized
from rlvr.problems import tables
from rlvr.stages import evaluate, grpo, prepare, quantization, sft
from rlvr.stages.provenance import write_card
from rlvr.types import UserError
from support.loading import prepared_policy
from support.smoke import smoke_params

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'rlvr[qlora]'")

CHANGES = {
    "compute": {"dtype": "bfloat16"},
    "model": {"adapter": "lora", "quantization": "nf4-dynamic", "dynamic_share": 1.0},
    "sft": {"max_steps": 2, "check_every": 2},
    "grpo": {"steps": 1, "prompts_per_step": 2},
    "memory": {"optimizer": "adamw_8bit", "optimizer_on_host": "on"},
}


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """A folder whose params.yaml is the smoke test's with changes; calling again writes others."""
    monkeypatch.chdir(tmp_path)

    def write(**more: dict[str, Any]) -> Config:
        params = parse_yaml(smoke_params(), "the smoke run")
        for changes in (CHANGES, more):
            for section, values in changes.items():
                params[section] |= values
        params["model"]["scratch"] |= {"intermediate_size": 128}
        YAML().dump(params, Path("params.yaml"))
        return load_config()

    return write


def prepare_base() -> None:
    """The prepare stage; then every layer of its fresh model is made to matter."""
    prepare.main()
    file = tables.BASE / "model.safetensors"
    weights = {name: 6.0 * w if w.dim() == 2 else w for name, w in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    write_card(tables.FOLDER, json.loads((tables.FOLDER / "card.json").read_text()))


def unquantised() -> set[str]:
    model = prepared_policy(start=None).base
    return {
        name
        for name, module in model.get_decoder().layers.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora" not in name and not is_quantized(module)
    }


def test_every_stage_keeps_the_layers_of_the_first(configure: Callable[..., Config]) -> None:
    configure()
    prepare_base()
    with pytest.raises(UserError, match=r"quantization\.json does not exist: the stage sft"):
        prepared_policy(start=None)
    sft.main()
    chosen = json.loads(quantization.FILE.read_text())
    assert 0 < len(chosen["kept"]) < len(chosen["candidates"]) == 7
    assert chosen["kl_chosen"] < chosen["kl_nf4"]
    assert 64 <= chosen["calibration"]["tokens"] <= quantization.TOKENS
    kept = {name.removeprefix("model.layers.").replace(".base_layer", "") for name in chosen["kept"]}
    assert {name.replace(".base_layer", "") for name in unquantised()} == kept
    grpo.main()
    evaluate.main()
    for card in ("models/sft/card.json", "models/grpo/card.json", "evaluations/card.json"):
        precision = json.loads(Path(card).read_text())["precision"]
        assert precision.startswith("bfloat16, frozen layers in nf4-dynamic")
        assert f"({len(kept)} of 7 layers as they were, KL " in precision
    assert json.loads(Path("metrics/evaluate.json").read_text())["sft"]["count"] == 16


def test_without_a_pre_finetune_it_is_chosen_all_the_same_and_only_once(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(sft={"enabled": False})
    prepare_base()
    sft.main()
    first = quantization.FILE.read_bytes()
    (made,) = quantization.MADE.iterdir()
    made.write_text(made.read_text().replace("is_kept", "was_kept"))  # it is read, not made again
    sft.main()
    assert b"was_kept" in quantization.FILE.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("rlvr.stages.provenance.versions", lambda: {"torch": "another"})
        sft.main()
    assert quantization.FILE.read_bytes() == first
    made.unlink()
    sft.main()
    assert quantization.FILE.read_bytes() == first
    configure(sft={"enabled": False}, compute={"seed": 1})
    sft.main()
    other, before = json.loads(quantization.FILE.read_text()), json.loads(first)
    assert other["calibration"]["sha256"] != before["calibration"]["sha256"]


def test_calibration_is_prompts_with_their_solutions(configure: Callable[..., Config]) -> None:
    configure()
    prepare_base()
    texts = quantization.calibration(100, seed=0)
    assert sum(map(len, texts)) == 100
    whole = {(*prompt, *target.tolist()) for prompt, target in tables.read_examples("train")}
    assert all(text in whole for text in texts[:-1])
    assert texts == quantization.calibration(100, seed=0) != quantization.calibration(100, seed=1)
