"""What a change re-runs: exactly what it can reach, the same under both engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.clone import ENGINES, STAGES, Clone, under_each

Finished = Callable[[str], Clone]


@pytest.mark.slow
def test_a_learning_rate_reruns_grpo_and_what_follows(finished: Finished) -> None:
    before = finished("before").weights()

    def change(engine: str) -> Clone:
        clone = finished(engine)
        clone.set("grpo.learning_rate", 1e-3)
        assert clone.repro(engine).ran == ["grpo", "evaluate", "report"]
        assert clone.repro(engine).ran == []
        assert clone.git("diff", "--name-only").split() == ["dvc.lock", "params.yaml"]
        return clone

    after = under_each(change)
    assert after["dvc"].weights() == after["snakemake"].weights() != before
    assert after["dvc"].repro("snakemake").ran == after["snakemake"].repro("dvc").ran == []


@pytest.mark.slow
def test_switching_the_prefinetune_off(finished: Finished) -> None:
    """Later stages start from the base model; what the pre-finetune would have done is nobody's business."""
    clone = finished("clone")
    clone.set("sft.enabled", False)
    assert clone.repro("snakemake").ran == ["sft", "grpo", "evaluate", "report"]
    assert clone.json("models/sft/card.json") == {"enabled": False, "files": {}}
    assert clone.json("metrics/evaluate.json")["sft"] is None
    clone.set("sft.learning_rate", 1.0e-3)
    assert clone.run("snakemake", "-n").text.count("params.yaml:sft modified") == 1
    assert clone.repro("dvc").ran == ["sft"]
    clone.set("sft.learning_rate", 2.0e-3)
    assert clone.repro("snakemake").ran == ["sft"]


def test_code_of_a_stage_is_run_from_the_clone_and_reruns_it(finished: Finished) -> None:
    """An editable install points elsewhere; the clone's own source goes first."""
    clone = finished("clone")
    source = clone.folder / "src/rlvr/problems/prepare.py"
    source.write_text(source.read_text() + '\nprint("an edit of prepare")\n')
    done = clone.repro("dvc")
    assert done.ran == ["prepare"]  # the same output: nothing follows
    assert "an edit of prepare" in done.text


@pytest.mark.slow
def test_an_edit_of_ones_own_reward_reruns_what_depends_on_it(finished: Finished) -> None:
    clone = finished("clone")
    clone.set("rewards", {"variety": {"python": "user/my_rewards.py:variety", "weight": 1.0}})
    assert clone.repro("dvc").ran == ["grpo", "evaluate", "report"]
    before = clone.weights()
    file = clone.folder / "user/my_rewards.py"
    file.write_text(
        file.read_text() + "\n\ndef variety(completions):\n    return [len(set(text)) for text in completions]\n"
    )
    assert clone.repro("snakemake").ran == ["grpo", "evaluate", "report"]
    assert clone.weights() != before
    assert clone.repro("dvc").ran == []


@pytest.mark.parametrize("engine", ENGINES)
def test_an_edited_output_is_made_again(finished: Finished, engine: str) -> None:
    clone = finished("clone")
    good = clone.weights()
    weights = next((clone.folder / "models/grpo").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert clone.run("snakemake", "-n").text.count("models/grpo modified") >= 1
    clone.repro(engine)
    assert clone.weights() == good
    assert clone.repro(engine).ran == []


def test_force_runs_what_is_up_to_date(finished: Finished) -> None:
    clone = finished("clone")
    assert clone.run("snakemake", "--cores", "1", "-F", "prepare").ran == ["prepare"]
    assert clone.run("snakemake", "--cores", "1", "-R", "report").ran == ["report"]
    assert clone.repro("dvc").ran == []


@pytest.mark.slow
def test_force_all_runs_everything_and_gives_the_same_weights(finished: Finished) -> None:
    clone = finished("clone")
    good = clone.weights()
    assert clone.run("snakemake", "--cores", "1", "-F").ran == list(STAGES)
    assert clone.weights() == good


def test_config_on_the_command_line_is_refused(fresh: Clone, tmp_path: Path) -> None:
    clone = fresh.copy(tmp_path / "clone")
    done = clone.run("snakemake", "--cores", "1", "--config", "learning_rate=1", fails=True)
    assert "dvc exp run -S" in done.text
    assert done.ran == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("grpo.learning_rte", 1.0e-4, "grpo.learning_rte: unknown key"),
        ("grpo.steps", "many", "grpo.steps: 'many'"),
        ("rewards.anwser", {"weight": 1.0, "options": {}}, "did you mean answer?"),
    ],
    ids=["unknown key", "wrong type", "no such reward"],
)
def test_a_bad_value_fails_before_any_work(fresh: Clone, tmp_path: Path, key: str, value: object, said: str) -> None:
    clone = fresh.copy(tmp_path / "clone")
    clone.set(key, value)
    planned = clone.repro("snakemake", fails=True)
    assert said in planned.text
    assert planned.ran == []
    assert not (clone.folder / ".pipeline").exists()
    stopped = clone.repro("dvc", fails=True)
    assert said in stopped.text
    assert "Traceback" not in stopped.text
    assert stopped.ran == ["prepare"]
    assert not (clone.folder / "data/prepared").exists()


def test_the_error_of_a_stage_is_shown_last_under_snakemake(fresh: Clone, tmp_path: Path) -> None:
    """Snakemake adds its own lines about the failed rule; the reason must stand below them."""
    clone = fresh.copy(tmp_path / "clone")
    clone.set("prepare.max_prompt_tokens", 3)
    done = clone.repro("snakemake", fails=True)
    reason = "with a prompt over prepare.max_prompt_tokens 3"
    assert reason in done.text
    assert reason in "\n".join(done.text.splitlines()[-12:])
    assert "Traceback" not in done.text
