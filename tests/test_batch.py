"""What is trained on: every token of every row once, counted with what was skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.batch import MicroBatch, MiniBatch, pack, supervised
from rlvr.types import Group, Totals

CPU = torch.device("cpu")
SHAPES = [(7, [5, 2, 9]), (3, [1, 4, 9]), (1, [6, 1, 8]), (4, [2, 2, 2])]  # 9 tokens are the limit: truncated


def advantages(groups: Sequence[Group]) -> torch.Tensor:
    """Each completion has its own number: 1.00, 1.01, ... in the first group, 2.00, ... in the second."""
    return torch.tensor([[p + 1 + g / 100 for g in range(len(group.completions))] for p, group in enumerate(groups)])


def rows_of(micros: Sequence[MicroBatch]) -> Counter[Any]:
    """Every row as (tokens, advantages, log-probabilities of the sampler)."""
    rows = []
    for micro in micros:
        for r in range(int(micro.row_T.max()) + 1):
            mine = micro.row_T == r
            columns = (micro.target_T, micro.advantage_T, micro.sampler_logp_T)
            rows.append(tuple(tuple(column[mine].tolist()) for column in columns))
    return Counter(rows)


def expected_rows(groups: Sequence[Group], chosen: Callable[[int, int], bool]) -> Counter[Any]:
    advantage_PG = advantages(groups).tolist()
    return Counter(
        (tuple(c.token_ids.tolist()), (advantage_PG[p][g],) * len(c.token_ids), tuple(c.logp.tolist()))
        for p, group in enumerate(groups)
        for g, c in enumerate(group.completions)
        if chosen(p, g)
    )


def packed(groups: Sequence[Group], **values: Any) -> list[MiniBatch]:
    defaults: dict[str, Any] = {"keep_P": [True] * len(groups), "minibatches": 1, "mask_truncated": False}
    return pack(groups, advantages(groups), **({"scorable_PG": everything(groups)} | defaults | values))


def everything(groups: Sequence[Group]) -> torch.Tensor:
    return torch.ones_like(advantages(groups), dtype=torch.bool)


@pytest.mark.parametrize("budget", [1, 12, 20, 31, 1000])
def test_every_token_is_trained_on_once(budget: int, make_groups: Callable[..., list[Group]]) -> None:
    """... up to the last, the end of sequence, and with its own row's advantage."""
    groups = make_groups(SHAPES)
    (minibatch,) = packed(groups)
    assert minibatch.totals == Totals(rows=12, tokens=51)
    assert rows_of(minibatch.split(budget, CPU)) == expected_rows(groups, lambda p, g: True)


def test_skipped_groups_count_as_rows_and_tokens(make_groups: Callable[..., list[Group]]) -> None:
    groups = make_groups(SHAPES)
    (minibatch,) = packed(groups, keep_P=[True, False, True, False])
    assert minibatch.totals == Totals(rows=12, tokens=51)
    assert rows_of(minibatch.split(20, CPU)) == expected_rows(groups, lambda p, g: p in (0, 2))


def test_masked_truncated_rows_count_as_rows_only(make_groups: Callable[..., list[Group]]) -> None:
    """Also those of skipped groups: skipping must not change N."""
    groups = make_groups(SHAPES)
    for keep_P in ([True] * 4, [True, False, True, True]):
        (minibatch,) = packed(groups, keep_P=keep_P, mask_truncated=True)
        assert minibatch.totals == Totals(rows=12, tokens=51 - 9 - 9)
        chosen = expected_rows(groups, lambda p, g, keep=keep_P: keep[p] and not groups[p].completions[g].is_truncated)  # type: ignore[misc]
        assert rows_of(minibatch.split(20, CPU)) == chosen


def test_unscorable_rows_count_as_rows_only(make_groups: Callable[..., list[Group]]) -> None:
    """... whether their group is kept or not, and next to rows that are masked for truncation."""
    groups = make_groups(SHAPES)
    scorable_PG = everything(groups)
    scorable_PG[0, 0] = scorable_PG[1, 1] = scorable_PG[1, 2] = False  # 5, 4 and 9 tokens, the last truncated
    for keep_P in ([True] * 4, [True, False, True, True]):
        for mask_truncated, tokens in ((False, 51 - 18), (True, 51 - 18 - 9)):
            (minibatch,) = packed(groups, scorable_PG=scorable_PG, keep_P=keep_P, mask_truncated=mask_truncated)
            assert minibatch.totals == Totals(rows=12, tokens=tokens)
            trained = [row for p in range(4) if keep_P[p] for row in range(3) if scorable_PG[p, row]]
            assert len(minibatch.rows) == len(trained) - mask_truncated


def test_minibatches_are_disjoint_and_hold_whole_groups(make_groups: Callable[..., list[Group]]) -> None:
    groups = make_groups(SHAPES)
    first, second = packed(groups, minibatches=2)
    assert (first.totals, second.totals) == (Totals(rows=6, tokens=30), Totals(rows=6, tokens=21))
    assert rows_of(first.split(1000, CPU)) == expected_rows(groups, lambda p, g: p < 2)
    assert rows_of(second.split(1000, CPU)) == expected_rows(groups, lambda p, g: p >= 2)


def test_nothing_kept_gives_no_micro_batch(make_groups: Callable[..., list[Group]]) -> None:
    (minibatch,) = packed(make_groups(SHAPES), keep_P=[False] * 4)
    assert minibatch.split(100, CPU) == []
    assert minibatch.totals == Totals(rows=12, tokens=51)


@pytest.mark.parametrize("budget", [16, 20, 31, 1000])
def test_micro_batches_hold_at_most_the_budget(budget: int, make_groups: Callable[..., list[Group]]) -> None:
    """16 is the longest sequence: 7 of the prompt and 9 of the completion."""
    (minibatch,) = packed(make_groups(SHAPES))
    sizes = [len(micro.token_S) for micro in minibatch.split(budget, CPU)]
    assert max(sizes) <= budget
    # a prompt whose group is not split is computed once: 6 + 16, 2 + 14, 0 + 15 and 3 + 6 tokens
    assert (sizes == [62]) == (budget == 1000)


def test_supervised_rows_are_groups_of_their_own() -> None:
    rows = supervised([((1, 2), torch.tensor([3, 4, 5])), ((6,), torch.tensor([7]))])
    (micro,) = MiniBatch(rows, Totals(2, 4)).split(100, CPU)
    assert micro.target_T.tolist() == [3, 4, 5, 7]
    assert micro.row_T.tolist() == [0, 0, 0, 1]


@given(
    st.integers(1, 4).flatmap(
        lambda size: st.lists(
            st.tuples(st.integers(1, 9), st.lists(st.integers(1, 9), min_size=size, max_size=size)),
            min_size=1,
            max_size=5,
        )
    ),
    st.integers(17, 60),
)
def test_any_groups_and_budget(make_groups: Any, shapes: list[tuple[int, list[int]]], budget: int) -> None:
    groups = make_groups(shapes)
    (minibatch,) = packed(groups)
    micros = minibatch.split(budget, CPU)
    assert rows_of(micros) == expected_rows(groups, lambda p, g: True)
    assert max(len(micro.token_S) for micro in micros) <= budget
