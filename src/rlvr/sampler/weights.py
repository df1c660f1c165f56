"""The policy's weights on their way into a vLLM engine: the adapter from memory, or all weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from rlvr.types import UserError

if TYPE_CHECKING:
    from rlvr.model.policy import Policy

ADAPTER = 1  # the id of the one adapter
ADAPTER_NAME = "policy"


def send_weights(llm: Any, policy: Policy) -> None:
    """Let the engine sample from `policy` as it is now; raises RuntimeError while it is sampling.

    An adapter is put next to the engine's frozen weights, without a merge; without one all weights are replaced. What
    the cache holds of prompts was computed with the old weights, and is dropped.
    """
    if has_adapter(policy):
        llm.collective_rpc(_replace_adapter, args=(adapter_tensors(policy), adapter_settings(policy)))
    else:
        llm.collective_rpc(_replace_weights, args=(policy.trainable_state(),))
    if not llm.reset_prefix_cache():
        raise RuntimeError("the engine still holds sequences: weights are sent between rollouts only")


def has_adapter(policy: Policy) -> bool:
    return hasattr(policy.model, "peft_config")


def adapter_tensors(policy: Policy) -> dict[str, Tensor]:
    """Copies of the adapter's tensors under the names of PEFT's files; copies, because the engine scales some."""
    return {name.replace(".default.", "."): weight.clone() for name, weight in policy.trainable_state().items()}


def adapter_settings(policy: Policy) -> dict[str, Any]:
    """Rank, alpha and modules as adapter_config.json has them."""
    settings: dict[str, Any] = policy.model.peft_config["default"].to_dict()
    return settings | {"target_modules": sorted(settings["target_modules"])}


def adapter_request() -> Any:
    """The request for the adapter that goes with a prompt."""
    from vllm.lora.request import LoRARequest  # noqa: PLC0415

    return LoRARequest(ADAPTER_NAME, ADAPTER, "in memory")


def _replace_adapter(worker: Any, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Runs in the engine's worker. Raises UserError for an adapter of which the engine would leave out a part."""
    from vllm.lora.lora_model import LoRAModel  # noqa: PLC0415
    from vllm.lora.peft_helper import PEFTHelper  # noqa: PLC0415

    manager = worker.model_runner.lora_manager._adapter_manager
    names = getattr(manager.model, "hf_to_vllm_mapper", None)
    adapter = LoRAModel.from_lora_tensors(
        ADAPTER,
        tensors,
        PEFTHelper.from_dict(settings),
        device=str(worker.device),
        dtype=manager.lora_config.lora_dtype,
        weights_mapper=None if names is None else names.get_rename_mapper(),
        skip_prefixes=getattr(manager.model, "lora_skip_prefixes", None),
    )
    manager.remove_adapter(ADAPTER)
    manager.add_adapter(adapter)
    unknown = sorted(set(adapter.loras) - set(manager.modules))  # packed by now, as the engine's layers are
    if unknown:
        raise UserError(
            f"vLLM would sample without {len(unknown)} parts of the adapter, since its {type(manager.model).__name__} "
            f"has no layer {unknown[0]}: set rollout.sampler: native"
        )
    manager.activate_adapter(ADAPTER)


def _replace_weights(worker: Any, weights: dict[str, Tensor]) -> None:
    """Runs in the engine's worker."""
    worker.reload_weights(weights_iterator=iter(weights.items()))
    model = worker.get_model()
    if model.config.tie_word_embeddings:  # nothing is loaded into that head, and on a CPU it has a packed copy
        model.lm_head.quant_method.process_weights_after_loading(model.lm_head)
