"""What the settings make unlikely to work, said before the time is spent. Never an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlvr.config import Config

FEW_STEPS, FEW_PROBLEMS, FEW_COMPLETIONS, FEW_HELD_OUT = 300, 500, 4, 30
SMALL_MODEL = 1_500_000_000  # parameters
GSPO_EPSILON = 0.01
LORA_RATE = 5.0e-6  # below it an adapter hardly moves; training all weights takes 1.0e-6 and the like


def advice(
    cfg: Config,
    num_train: int | None,
    *,
    steps: int | None,
    pre_finetuned: bool,
    num_parameters: int | None = None,
    template_added: bool = False,
) -> list[str]:
    """One sentence for each setting that is known to disappoint, with what to do instead.

    `num_train` problems (None: not counted yet) and `steps` of GRPO (None: not known before they are), `pre_finetuned`
    whether GRPO starts from a format pre-finetune, `num_parameters` None where no model was loaded yet,
    `template_added` whether the model came without a chat template. Of the configuration it reads `model` and `grpo`.
    """
    grpo = cfg.grpo
    from_scratch = cfg.model.source == "scratch"
    updates = None if steps is None else steps * grpo.minibatches_per_rollout * grpo.passes_per_rollout
    is_small = num_parameters is not None and num_parameters < SMALL_MODEL
    notes = {
        f"grpo runs {steps} steps: enough where rewards are paid from the start; others may need {FEW_STEPS} "
        "or more before rewards move (grpo.steps)": (steps is not None and steps < FEW_STEPS),
        f"{num_train} training problems are few: {FEW_PROBLEMS} or more are better (docs/data.md)": (
            num_train is not None and num_train < FEW_PROBLEMS
        ),
        f"groups of {grpo.completions_per_prompt} completions: a mean over fewer than {FEW_COMPLETIONS} is noisy; "
        "raise grpo.completions_per_prompt": grpo.completions_per_prompt < FEW_COMPLETIONS,
        f"loss_type gspo with epsilon {grpo.epsilon:g}: the ratio of whole sequences hardly leaves 1, so this clips "
        "nothing; the paper uses epsilon 3.0e-4 and epsilon_high 4.0e-4": (
            grpo.loss_type == "gspo" and grpo.epsilon > GSPO_EPSILON
        ),
        f"grpo.warmup_steps {grpo.warmup_steps} for a run of {updates} optimizer steps: the learning rate only just "
        "reaches its peak or never does; lower it": updates is not None and 0 < updates <= grpo.warmup_steps,
        f"grpo.learning_rate {grpo.learning_rate:g} is a rate for training all weights: an adapter usually needs "
        "1.0e-5 to 1.0e-4": cfg.model.adapter == "lora" and grpo.learning_rate < LORA_RATE,
        "a model under 1.5B parameters rarely learns to reason in tags by reinforcement alone; "
        "do the pre-finetune (sft.enabled: true)": is_small and not from_scratch and not pre_finetuned,
        "without the pre-finetune a model from scratch does not produce the format, and nothing is rewarded; "
        "do it (sft.enabled: true)": from_scratch and not pre_finetuned,
        "the model has no chat template and got the pipeline's own, which it has never seen"
        + ("" if pre_finetuned else "; do the pre-finetune (sft.enabled: true)"): template_added,
    }
    return [note for note, applies in notes.items() if applies]


def sft_advice(cfg: Config) -> list[str]:
    """The same for the pre-finetune. It reads `sft`."""
    if not cfg.sft.enabled or cfg.sft.warmup_steps < cfg.sft.max_steps:
        return []
    return [
        f"sft.warmup_steps {cfg.sft.warmup_steps} for at most {cfg.sft.max_steps} steps: the learning rate only just "
        "reaches its peak or never does; lower it"
    ]


def evaluation_advice(cfg: Config) -> list[str]:
    """The same for the evaluation. It reads `rollout` and `evaluate`."""
    trained, evaluated = cfg.rollout.temperature, cfg.evaluate.temperature
    if trained == evaluated:
        return []
    return [
        f"evaluate.temperature {evaluated:g} is not rollout.temperature {trained:g}: mean@k and pass@k then "
        "measure another sampling distribution than the one trained"
    ]
