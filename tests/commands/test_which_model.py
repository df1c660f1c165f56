"""An adapter whose base is another model is one message that names both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.commands.which_model import find
from rlvr.config import load_config
from rlvr.model.source import Source
from rlvr.model.weights import misfit
from rlvr.stages import prepare
from rlvr.types import UserError
from support.loading import prepared_policy
from support.smoke import smoke_params

LORA = smoke_params().replace("adapter: none", "adapter: lora")
WIDER = LORA.replace("hidden_size: 64", "hidden_size: 128")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two projects, with an adapter each, of a narrow and of a wide model."""
    made = {}
    for name, params in (("narrow", LORA), ("wide", WIDER)):
        made[name] = tmp_path_factory.mktemp(name)
        (made[name] / "params.yaml").write_text(params)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(made[name])
            prepare.main()
            prepared_policy(start=None).save(Path("models/grpo"))
            card = {"params": {"model": {"source": "scratch"}}}
            Path("models/grpo/card.json").write_text(json.dumps(card))
    return made


@pytest.fixture
def project(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the narrow one."""
    shutil.copytree(folders["narrow"], tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return folders["wide"]


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_an_adapter_of_the_prepared_model_is_found(project: Path, tmp_path: Path) -> None:
    for model in (None, "models/grpo"):
        assert find(load_config(), model, tmp_path).start == Path("models/grpo")
    Path("models/grpo/card.json").unlink()
    assert find(load_config(), "models/grpo", tmp_path).start == Path("models/grpo")


@pytest.mark.parametrize("has_card", [True, False])
def test_one_of_a_model_of_another_size_is_not_put_on_the_prepared_one(
    has_card: bool, project: Path, tmp_path: Path
) -> None:
    shutil.copytree(project / "models/grpo", "models/grpo", dirs_exist_ok=True)
    if not has_card:
        Path("models/grpo/card.json").unlink()
    whose = "of scratch" if has_card else "of another model"
    message = (
        rf"^--model models/grpo: this is an adapter {whose}, and cannot be put on scratch in data/prepared/base \("
    )
    with pytest.raises(
        UserError, match=message + r"model\.layers\.0\.\S+ has 128 (in|out)_features in it, and 64 in that"
    ):
        find(load_config(), None, tmp_path)


def test_another_name_of_a_model_of_the_same_size_is_told(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be the same, in a folder."""
    edit(Path("models/grpo/card.json"), lambda card: card["params"]["model"].update(source="Qwen/Qwen3-0.6B"))
    find(load_config(), None, tmp_path)
    assert "warning: models/grpo was trained on Qwen/Qwen3-0.6B and is put on scratch" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", b"cut"])
def test_a_damaged_adapter_is_one_message(content: bytes, project: Path, tmp_path: Path) -> None:
    Path("models/grpo/adapter_model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is damaged, or was not pulled"):
        find(load_config(), None, tmp_path)


def test_the_base_that_an_adapter_names_must_have_room_for_it(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "models/grpo", "elsewhere")
    base = str(tmp_path / "base")
    shutil.copytree("data/prepared/base", base)
    edit(Path("elsewhere/adapter_config.json"), lambda config: config.update(base_model_name_or_path=base))
    message = rf"--model elsewhere: .*cannot be put on {base} .* base_model_name_or_path in elsewhere/adapter_config"
    with pytest.raises(UserError, match=message):
        find(load_config(), "elsewhere", tmp_path)
    edit(
        Path("elsewhere/adapter_config.json"),
        lambda config: config.update(base_model_name_or_path=str(project / "data/prepared/base")),
    )
    assert find(load_config(), "elsewhere", tmp_path).source.name == str(project / "data/prepared/base")


def test_a_layer_that_the_model_lacks_is_named(project: Path, tmp_path: Path) -> None:
    edit(Path("data/prepared/base/config.json"), lambda config: config.update(num_hidden_layers=0, layer_types=None))
    said = misfit(Path("models/grpo/adapter_model.safetensors"), Source("data/prepared/base", None, None))
    assert said is not None and "it adapts model.layers.0." in said
