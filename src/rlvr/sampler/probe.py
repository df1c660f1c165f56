"""Whether the native sampler draws from the model itself: its cache, a token at a time, against whole rows."""
# P prompts · R rows · D hidden · V vocabulary

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from rlvr.model.policy import Policy
from rlvr.model.probe import COMPLETIONS, PROMPTS, check_same, own_logits, refused, sample_rows, short_windows
from rlvr.sampler.native import GroupCache


def check_native(policy: Policy, *, name: str) -> None:
    """Raises UserError where the logits that are sampled from are not the model's own, to the rounding of its type."""
    with (
        _disable_current_modes(),
        refused(policy.base, name),
    ):  # neither planned nor counted, as the checks of load_policy
        found_TV, own_TV = sampled_and_own(policy)
    reason = "the native sampler keeps keys and values, and the model needs more; try rollout.sampler: vllm"
    check_same(policy.base, name, found_TV, own_TV, reason=reason)


@torch.no_grad()
def sampled_and_own(policy: Policy) -> tuple[Tensor, Tensor]:
    """Logits from the cache, and those of the model by itself on whole rows."""
    rows = sample_rows(policy.base)
    with short_windows(policy.base):
        own, sampled = own_logits(policy.base, rows), _sampled_logits(policy, rows)
    own = [logits[-len(of_row) :] for logits, of_row in zip(own, sampled, strict=True)]
    return torch.cat(sampled), torch.cat(own)


def _sampled_logits(policy: Policy, rows: list[Tensor]) -> list[Tensor]:
    """Logits of every completion token and of its prompt's last, as rows leave the cache one after the other."""
    per_prompt, device = len(COMPLETIONS[0]), policy.device
    lengths = [n for of_prompt in COMPLETIONS for n in of_prompt]
    cache = GroupCache(list(PROMPTS), max(lengths), device)
    token_S = torch.cat([row[:n] for row, n in zip(rows[::per_prompt], PROMPTS, strict=True)])
    position_S = torch.cat([torch.arange(n, device=device) for n in PROMPTS])
    hidden_SD = policy.hidden_stream(token_S, position_S, cache)
    cache.start(per_prompt)
    last_P = torch.tensor(PROMPTS, device=device).cumsum(0) - 1
    logits_RV = policy.logits(hidden_SD[last_P]).repeat_interleave(per_prompt, dim=0)
    sampled = [[logits_V] for logits_V in logits_RV]
    going = list(range(len(rows)))
    for step in range(max(lengths)):
        keep = [i for i, row in enumerate(going) if step < lengths[row]]
        if len(keep) < len(going):
            cache.keep(torch.tensor(keep, device=device))
            going = [going[i] for i in keep]
        token_R = torch.stack([rows[row][len(rows[row]) - lengths[row] + step] for row in going])
        logits_RV = policy.logits(policy.hidden_stream(token_R, cache.positions(), cache))
        cache.advance()
        for row, logits_V in zip(going, logits_RV, strict=True):
            sampled[row].append(logits_V)
    return [torch.stack(of_row) for of_row in sampled]
