"""The packed, prefix-shared stream against a plain transformers model that runs row by row."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlvr.batch import MicroBatch, MiniBatch, pack, supervised
from rlvr.config import Config
from rlvr.model.device import device_named, fastest_dtype
from rlvr.model.policy import (
    Policy,
    end_of_sequence_ids,
    has_weights,
    load_tokenizer,
)
from rlvr.stages.resolve import resolve
from rlvr.types import Group, Totals, UserError
from support.loading import load
from support.precision import assert_close_where, assert_same_bits, bit_difference

Key = tuple[int, ...]  # a row's tokens: all rows in these tests differ
CPU = torch.device("cpu")
TOLERANCE = 1e-12
SHAPES = {
    "prompts of different lengths": [(7, [5, 2, 9]), (3, [1, 4, 4]), (11, [6, 1, 12])],
    "prompts of one length": [(6, [5, 2, 9]), (6, [3, 3, 3])],
    "a prompt of one token": [(1, [4, 2]), (5, [3, 7])],
    "only prompts of one token": [(1, [4, 2]), (1, [3, 7])],
    "one row": [(4, [6])],
}
SPLITS = {"in one micro-batch": 10_000, "groups split over micro-batches": 17, "row by row": 1}


def packed(groups: Sequence[Group]) -> MiniBatch:
    (minibatch,) = pack(
        groups,
        torch.ones(len(groups), len(groups[0].completions)),
        torch.ones(len(groups), len(groups[0].completions), dtype=torch.bool),
        [True] * len(groups),
        minibatches=1,
        mask_truncated=False,
    )
    return minibatch


def by_row(micro: MicroBatch, values_T: Tensor) -> dict[Key, Tensor]:
    """The part of `values_T` that belongs to each row, by the row's tokens."""
    rows = range(int(micro.row_T.max()) + 1)
    return {tuple(micro.target_T[micro.row_T == r].tolist()): values_T[micro.row_T == r] for r in rows}


def hidden_by_row(policy: Policy, micros: Sequence[MicroBatch]) -> dict[Key, Tensor]:
    return {key: hidden for micro in micros for key, hidden in by_row(micro, policy.hidden(micro)).items()}


def plain_hidden_by_row(model: Any, groups: Sequence[Group]) -> dict[Key, Tensor]:
    """Final hidden states that predict each completion token: each row alone, prompt and completion, no packing."""
    rows = {}
    for group in groups:
        for completion in group.completions:
            tokens = torch.tensor([*group.prompt.tokens, *completion.token_ids.tolist()])
            states = model(input_ids=tokens[None], output_hidden_states=True).hidden_states[-1][0]
            rows[tuple(completion.token_ids.tolist())] = states[len(group.prompt.tokens) - 1 : -1]
    return rows


def weighted_sum(rows: dict[Key, Tensor]) -> Tensor:
    """A scalar that depends on every component, so that its gradient sees them all."""
    return torch.stack(
        [(torch.cos(torch.arange(rows[k].numel())) * rows[k].flatten()).sum() for k in sorted(rows)]
    ).sum()


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same(found: dict[Any, Tensor], expected: dict[Any, Tensor], *, tolerance: float = TOLERANCE) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert_close_where(found[key], value, tolerance * max(1.0, value.abs().max().item()), case=str(key))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_hidden_states_and_all_gradients_are_those_of_the_plain_model(
    architecture: str,
    shape: str,
    split: str,
    make_policy: Callable[..., Policy],
    make_plain: Callable[..., Any],
    make_groups: Callable[..., list[Group]],
) -> None:
    groups, policy, plain = make_groups(SHAPES[shape]), make_policy(architecture), make_plain(architecture)
    expected = plain_hidden_by_row(plain, groups)
    found = hidden_by_row(policy, packed(groups).split(SPLITS[split], CPU))
    assert_same(found, expected)
    torch.autograd.backward(weighted_sum(expected))
    torch.autograd.backward(weighted_sum(found))
    assert len(gradients(policy.model)) == len(list(policy.model.parameters())) > 15
    assert_same(gradients(policy.model), gradients(plain))


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_an_adapter_trains_as_in_the_plain_model(
    architecture: str,
    make_policy: Callable[..., Policy],
    make_plain: Callable[..., Any],
    make_groups: Callable[..., list[Group]],
    tmp_path: Path,
) -> None:
    groups, policy = make_groups(SHAPES["prompts of different lengths"]), make_policy(architecture, adapter="lora")
    policy.save(tmp_path)
    plain = PeftModel.from_pretrained(make_plain(architecture), tmp_path, is_trainable=True).double()
    expected = plain_hidden_by_row(plain, groups)
    found = hidden_by_row(policy, packed(groups).split(25, CPU))
    assert_same(found, expected)
    torch.autograd.backward(weighted_sum(expected))
    torch.autograd.backward(weighted_sum(found))
    assert set(gradients(policy.model)) == set(policy.trainable())
    assert all("lora" in name for name in policy.trainable())
    assert_same(gradients(policy.model), gradients(plain))


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_nothing_of_a_row_leaks_into_another(
    architecture: str, make_policy: Callable[..., Policy], make_groups: Callable[..., list[Group]]
) -> None:
    """Changing one completion changes its own hidden states, and no other row's, siblings included."""
    groups, policy = make_groups([(5, [6, 6, 3]), (3, [6, 2, 6])]), make_policy(architecture)
    changed_row = groups[0].completions[1]
    ids = changed_row.token_ids.clone()
    ids[0] = 4
    other = replace(changed_row, token_ids=ids)
    edited = [replace(groups[0], completions=(groups[0].completions[0], other, groups[0].completions[2])), groups[1]]
    with torch.no_grad():
        before, after = (hidden_by_row(policy, packed(g).split(10_000, CPU)) for g in (groups, edited))
    old_key, new_key = tuple(changed_row.token_ids.tolist()), tuple(ids.tolist())
    assert (after.pop(new_key) - before.pop(old_key))[1:].abs().max() > 1e-3
    assert_same(after, before, tolerance=1e-14)


def test_a_token_sees_nothing_after_it(
    make_policy: Callable[..., Policy], make_groups: Callable[..., list[Group]]
) -> None:
    groups, policy = make_groups([(5, [6, 6])]), make_policy()
    completion = groups[0].completions[0]
    ids = completion.token_ids.clone()
    ids[3] = 4
    edited = replace(groups[0], completions=(replace(completion, token_ids=ids), groups[0].completions[1]))
    with torch.no_grad():
        before, after = (hidden_by_row(policy, packed([g]).split(10_000, CPU)) for g in (groups[0], edited))
    change = (after[tuple(ids.tolist())] - before[tuple(completion.token_ids.tolist())]).abs().amax(-1)
    assert change[:4].max() < 1e-14  # token 3 is the input of what is predicted fifth
    assert change[4:].min() > 1e-3


def test_supervised_rows_do_not_share_a_prompt(
    make_policy: Callable[..., Policy], make_plain: Callable[..., Any]
) -> None:
    examples = [((7, 8, 9), torch.tensor([11, 12])), ((8, 7), torch.tensor([13])), ((9,), torch.tensor([14, 15, 16]))]
    rows = supervised(examples)
    micros = MiniBatch(rows, Totals(rows=3, tokens=6)).split(10_000, CPU)
    found = hidden_by_row(make_policy(), micros)
    for prompt, target in examples:
        states = make_plain()(input_ids=torch.tensor([[*prompt, *target.tolist()]]), output_hidden_states=True)
        expected = states.hidden_states[-1][0][len(prompt) - 1 : -1]
        assert_close_where(found[tuple(target.tolist())], expected, TOLERANCE)


def test_logprobs_are_those_of_the_plain_model_at_the_temperature(
    make_policy: Callable[..., Policy], make_plain: Callable[..., Any], make_groups: Callable[..., list[Group]]
) -> None:
    groups = make_groups([(5, [4, 2])])
    (micro,) = packed(groups).split(10_000, CPU)
    found = by_row(micro, make_policy().logprobs(micro, temperature=0.7))
    for completion in groups[0].completions:
        tokens = torch.tensor([*groups[0].prompt.tokens, *completion.token_ids.tolist()])
        logp_SV = (make_plain()(input_ids=tokens[None]).logits[0] / 0.7).log_softmax(-1)
        expected = logp_SV[4:-1].gather(1, completion.token_ids[:, None])[:, 0]
        assert_close_where(found[tuple(completion.token_ids.tolist())], expected, TOLERANCE)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_frozen_copy_stays_while_the_policy_moves(
    adapter: str, make_policy: Callable[..., Policy], make_groups: Callable[..., list[Group]]
) -> None:
    policy = make_policy(adapter=adapter)
    (micro,) = packed(make_groups([(5, [4, 2])])).split(10_000, CPU)
    copy, before = policy.frozen_copy(), policy.logprobs(micro, temperature=1.0)
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(0.1 * torch.cos(torch.arange(weight.numel())).reshape(weight.shape))
    assert_same_bits(copy.logprobs(micro, temperature=1.0), before)
    assert (policy.logprobs(micro, temperature=1.0) - before).abs().max() > 1e-2
    assert not copy.trainable()
    shared = {w.data_ptr() for w in copy.model.parameters()} & {w.data_ptr() for w in policy.model.parameters()}
    assert len(shared) == sum(not w.requires_grad for w in policy.model.parameters())


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_trainable_state_round_trip(adapter: str, make_policy: Callable[..., Policy]) -> None:
    policy, other = make_policy(adapter=adapter), make_policy(adapter=adapter)
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(1.0)
    other.load_trainable_state({name: w.clone() for name, w in policy.trainable_state().items()})
    assert_same_bits(dict(policy.model.named_parameters()), dict(other.model.named_parameters()))


class TestLoading:
    @pytest.mark.parametrize("adapter", ["none", "lora"])
    def test_saved_weights_are_the_start_of_the_next_stage(
        self, adapter: str, base: Callable[[str], Path], make_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        cfg = make_config({"model.adapter": adapter, "model.lora.rank": 4})
        folder = base("llama")
        first = load(cfg, folder)
        with torch.no_grad():
            for weight in first.trainable().values():
                weight.add_(0.01)
        first.save(tmp_path)
        assert has_weights(tmp_path)
        again = load(cfg, folder, start=tmp_path)
        assert again.trainable().keys() == first.trainable().keys()
        assert_same_bits(again.trainable(), first.trainable())

    def test_a_new_adapter_has_no_effect_and_depends_on_the_seed_alone(
        self, base: Callable[[str], Path], make_config: Callable[..., Config]
    ) -> None:
        folder = base("llama")

        def draw(seed: int, adapter: str = "lora") -> Policy:
            torch.manual_seed(torch.seed() % 1000)  # whatever the global state is
            cfg = make_config({"model.adapter": adapter, "compute.seed": seed})
            return load(cfg, folder)

        first, again, other = draw(0).trainable(), draw(0).trainable(), draw(1).trainable()
        assert_same_bits(again, first)
        assert bit_difference(first, other)
        tokens = torch.tensor([[7, 8, 9]])
        plain = AutoModelForCausalLM.from_pretrained(folder)(tokens).logits
        with_adapter = draw(0).model
        with_adapter.get_base_model().config._attn_implementation = "sdpa"
        assert_close_where(with_adapter(tokens).logits, plain, 1e-5)

    def test_a_folder_without_weights_is_no_start(
        self, base: Callable[[str], Path], make_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        """A pre-finetune that is off leaves a card alone."""
        (tmp_path / "card.json").write_text("{}")
        folder = base("llama")
        policy = load(make_config(), folder, start=tmp_path)
        plain = AutoModelForCausalLM.from_pretrained(folder)
        assert_same_bits(policy.head, plain.get_output_embeddings().weight)

    def test_an_adapter_of_another_rank_is_refused(
        self, base: Callable[[str], Path], make_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        folder = base("llama")
        ranks = [make_config({"model.adapter": "lora", "model.lora.rank": rank}) for rank in (4, 8)]
        load(ranks[0], folder).save(tmp_path)
        with pytest.raises(UserError, match=r"rank 4, but model\.lora\.rank is 8"):
            load(ranks[1], folder, start=tmp_path)

    def test_an_adapter_that_is_not_whole_is_refused(
        self, base: Callable[[str], Path], make_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        folder, cfg = base("llama"), make_config({"model.adapter": "lora", "model.lora.rank": 4})
        load(cfg, folder).save(tmp_path)
        file = tmp_path / "adapter_model.safetensors"
        weights = load_file(file)
        lost = sorted(weights)[3]
        save_file({name: weight for name, weight in weights.items() if name != lost}, file)
        with pytest.raises(UserError, match=lost.replace(".", r"\.")):
            load(cfg, folder, start=tmp_path)

    def test_a_model_that_does_not_exist_is_named(
        self, base: Callable[[str], Path], make_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        missing = tmp_path / "nothing"
        missing.mkdir()
        with pytest.raises(UserError, match="nothing"):
            load(make_config(), missing, load_tokenizer(base("llama")))

    def test_every_declared_end_of_sequence_id_counts(self, tokenizer: Any) -> None:
        for declared, expected in (([9, 8], (1, 8, 9)), (8, (1, 8)), (None, (1,))):
            assert end_of_sequence_ids(declared, tokenizer) == expected

    @pytest.mark.parametrize("declared", ["</s>", [2, "</s>"], [[2]], True, 2.0])
    def test_what_is_no_id_is_refused(self, declared: Any, tokenizer: Any) -> None:
        with pytest.raises(UserError, match=r"generation_config\.json: eos_token_id holds .* no id of a token"):
            end_of_sequence_ids(declared, tokenizer)

    def test_weights_that_are_not_finite_are_said(
        self, base: Callable[[str], Path], make_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        shutil.copytree(base("llama"), tmp_path, dirs_exist_ok=True)
        weights = load_file(tmp_path / "model.safetensors")
        weights["model.norm.weight"] *= float("nan")
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match="its logits are not finite, so its weights hold NaN"):
            load(make_config(), tmp_path)

    @pytest.mark.parametrize(
        ("kind", "has_bfloat16", "is_frozen", "expected"),
        [
            ("cpu", False, True, "float32"),
            ("mps", False, True, "float32"),
            ("cuda", True, False, "float32"),
            ("cuda", True, True, "bfloat16"),
            ("cuda", False, True, "float16"),
            ("cuda", False, False, "float32"),
        ],
    )
    def test_the_fastest_type_of_a_device(self, kind: str, has_bfloat16: bool, is_frozen: bool, expected: str) -> None:
        found = fastest_dtype(kind, has_bfloat16=has_bfloat16, is_frozen=is_frozen)
        assert found == getattr(torch, expected)

    def test_the_type_is_the_one_that_is_named(self, make_config: Callable[..., Config]) -> None:
        named = {"compute.dtype": "bfloat16", "compute.device": "cpu", "model.adapter": "lora"}
        assert resolve(make_config(named)).dtype == torch.bfloat16
        assert resolve(make_config({"compute.dtype": "auto", "compute.device": "cpu"})).dtype == torch.float32

    def test_a_device_that_is_not_there_is_refused(self, make_config: Callable[..., Config]) -> None:
        assert device_named("cpu") == CPU
        if torch.backends.mps.is_available():
            pytest.skip("this machine has what the test needs missing: mps")
        with pytest.raises(UserError, match=r"compute\.device is mps.*use auto or cpu"):
            device_named("mps")


def test_what_is_trained_is_no_map_of_a_file(
    base: Callable[[str], Path], make_config: Callable[..., Config], tmp_path: Path
) -> None:
    """Somebody who writes the same bytes over the file during training would take back what was trained."""
    folder = Path(shutil.copytree(base("llama"), tmp_path / "model"))
    policy = load(make_config(), folder, load_tokenizer(folder))
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.fill_(0.5)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes())
    assert all(bool((weight == 0.5).all()) for weight in policy.model.parameters())
