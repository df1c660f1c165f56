"""What a GRPO step leaves behind: one JSON line, and now and then a table of its completions."""
# P prompts · G completions per prompt · K reward functions

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from rlvr.loss import LossStats
from rlvr.rollout import Rollout
from rlvr.runtime.meter import Meter
from rlvr.verifiers.verdict import CRASH, MEMORY, OUTPUT, TIMEOUT, UNPARSABLE

POLICY_METRICS = ("policy/entropy", "policy/clip_low", "policy/clip_high", "policy/kl")
SAMPLER_METRICS = ("sampler/logp_gap_mean", "sampler/logp_gap_max", "sampler/dropped_rows", "sampler/dropped_tokens")


def step_record(
    step: int,
    rollout: Rollout,
    keep_P: Sequence[bool],
    losses: Sequence[float],
    statistics: Sequence[LossStats],
    meter: Meter,
) -> dict[str, Any]:
    """The line of `step`. `policy/*` and `sampler/*` are means over the tokens of the groups that were computed.

    `accuracy` and `verifier/*` are over all completions that were sampled, those of replaced groups included.
    """
    scores, reward_PG = rollout.scores, rollout.reward_PG
    completions = [completion for group in rollout.groups for completion in group.completions]
    lengths = [len(completion.token_ids) for completion in completions]
    known = [verdict.is_right for verdict in rollout.sampled_verdicts if not verdict.is_fault]
    column_KB = [[row[k] for group in scores.points for row in group] for k in range(len(scores.names))]
    record: dict[str, Any] = {
        "step": step,
        "loss": sum(losses) / len(losses),
        "accuracy": _mean(known),
        **_mean_and_std("reward", reward_PG.flatten().tolist()),
    }
    for name, column_B in zip(scores.names, column_KB, strict=True):
        record |= _mean_and_std(f"reward/{name}", column_B)
    record |= {
        "advantage/zero_std_groups": int((~rollout.signal_P).sum()),
        "groups/skipped": sum(not keep for keep in keep_P),
        "groups/resampled": rollout.num_resampled,
        "prompt/mean_length": _mean([len(group.prompt.tokens) for group in rollout.groups]),
        "completion/mean_length": sum(lengths) / len(lengths),
        "completion/max_length": max(lengths),
        "completion/truncated": sum(completion.is_truncated for completion in completions) / len(completions),
    }
    record |= _policy_metrics(statistics)
    record["verifier/unscorable"] = rollout.num_unscorable
    causes = Counter(verdict.cause for verdict in rollout.sampled_verdicts)
    record |= {f"verifier/{cause}": causes[cause] for cause in (TIMEOUT, MEMORY, OUTPUT, CRASH, UNPARSABLE)}
    seconds = {phase: meter.seconds[phase] for phase in ("rollout", "score", "update")}
    record |= {f"time/{phase}": value for phase, value in seconds.items()}
    record["tokens/second"] = sum(lengths) / sum(seconds.values())
    record["memory/is_counted"] = meter.counts
    record["memory/rollout_peak_bytes"] = meter.peak_bytes["rollout"]
    record["memory/update_peak_bytes"] = max(meter.peak_bytes["update"], meter.peak_bytes["optimizer"])
    return record


def _policy_metrics(statistics: Sequence[LossStats]) -> dict[str, float | None]:
    """Means over tokens (dropped_rows: over rows) and passes; None where nothing was computed."""
    if not statistics:
        return dict.fromkeys([*POLICY_METRICS, *SAMPLER_METRICS])
    sums = torch.stack([stats.sums for stats in statistics]).tolist()
    total = {name: sum(column) for name, column in zip(LossStats.NAMES, zip(*sums, strict=True), strict=True)}
    mean = {name: value / total["tokens"] for name, value in total.items()}
    gap_max = max(stats.logp_gap_max.item() for stats in statistics)
    dropped_rows = total["dropped_rows"] / total["rows"]
    policy = [mean["entropy"], mean["clip_low"], mean["clip_high"], mean["kl"]]
    sampler = [mean["logp_gap"], gap_max, dropped_rows, mean["dropped_tokens"]]
    return dict(zip([*POLICY_METRICS, *SAMPLER_METRICS], [*policy, *sampler], strict=True))


def completion_table(step: int, rollout: Rollout) -> pd.DataFrame:
    """One row per completion: step, problem_id, question, answer, text, num_tokens, is_truncated, correct, …"""
    scores, rows = rollout.scores, []
    for p, group in enumerate(rollout.groups):
        problem = group.prompt.problem
        for g, completion in enumerate(group.completions):
            row: dict[str, Any] = {
                "step": step,
                "problem_id": problem.id,
                "question": problem.question,
                "answer": problem.answer,
                "text": completion.text,
                "num_tokens": len(completion.token_ids),
                "is_truncated": completion.is_truncated,
                "correct": scores.correct[p][g],
                "verdict": str(scores.verdicts[p][g]),
                "reward": rollout.reward_PG[p, g].item(),
                "advantage": rollout.advantage_PG[p, g].item(),
            }
            rows.append(row | {f"reward/{name}": scores.points[p][g][k] for k, name in enumerate(scores.names)})
    return pd.DataFrame(rows)


def run_summary(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """metrics/train.json: means over the first and the last tenth of the steps, and where the time went."""
    tenth = max(1, len(records) // 10)
    names = ("accuracy", "reward/mean", "completion/mean_length", "policy/entropy")
    value: dict[str, Any] = {"steps": len(records)}
    for part, chosen in (("first", records[:tenth]), ("last", records[-tenth:])):
        value[part] = {name: _mean([r[name] for r in chosen if r[name] is not None]) for name in names}
    value["seconds"] = {
        phase: sum(record[f"time/{phase}"] for record in records) for phase in ("rollout", "score", "update")
    }
    return value


def peak_bytes(records: Sequence[dict[str, Any]]) -> dict[str, int]:
    """metrics/memory.json: the largest peak of each phase over the run."""
    return {
        phase: max((record[f"memory/{phase}_peak_bytes"] for record in records), default=0)
        for phase in ("rollout", "update")
    }


def largest_counted(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Of the steps whose tensors were counted the one with the longest completions; None where there is none."""
    counted = [record for record in records if record["memory/is_counted"]]
    return max(counted, key=lambda record: record["completion/mean_length"], default=None)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _mean_and_std(name: str, values: Sequence[float | None]) -> dict[str, float | None]:
    """Over the numbers: what does not apply (None) or could not be scored (NaN) is left out; None without any."""
    known = torch.tensor([value for value in values if value is not None and value == value], dtype=torch.float64)
    std = known.std(correction=1).item() if known.numel() > 1 else 0.0
    return {f"{name}/mean": known.mean().item() if known.numel() else None, f"{name}/std": std}
