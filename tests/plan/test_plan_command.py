"""`rlvr plan`: tables, remedies and exit codes; no torch; and the page that its tables are in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from make.memory import PAGE, QLORA, with_tables
from rlvr import cli
from rlvr.plan.cards import GIB, Card, this_host
from rlvr.plan.command import demand, plan_at
from rlvr.plan.shapes import find_shape
from rlvr.types import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `rlvr plan` in the project's folder: exit code, what it printed, and its error."""
    monkeypatch.chdir(ROOT)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rlvr", "plan", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


Run = Callable[..., tuple[int, str, str]]


def test_all_models_on_the_common_cards(plan: Run) -> None:
    code, out, _ = plan()
    assert code == 0
    lines = {line.split()[1]: line for line in out.splitlines() if line.startswith("│")}
    assert len(lines) == len(list((ROOT / "presets" / "shapes").glob("*.json")))
    assert "8,192 (all)" in lines["SmolLM2-135M"] and "131,072 (all)" in lines["Llama-3.3-70B"]
    assert lines["Llama-3.3-70B"].split("│")[3].strip() == "–"


def test_one_run_that_fits(plan: Run) -> None:
    code, out, _ = plan("Llama-3.1-8B", "--card", "H100", "--context", "20480")
    assert code == 0
    assert "fits:" in out and "layer inputs on the card" in out and "8.0 GB for QLoRA" in out
    assert "longest context: 131,072 tokens" in out
    assert "78.28" in out and "510.8" in out and "54.33" in out


def test_one_run_that_does_not_fit(plan: Run) -> None:
    code, out, _ = plan("meta-llama/Llama-3.3-70B-Instruct", "--card", "A6000", "--context", "65536")
    assert code == 1
    assert "does not fit: rollout needs" in out and "try a shorter context:" in out and "try a smaller model:" in out


def test_8b_in_16_bit_on_a_small_card_gets_nf4_with_its_figure(plan: Run) -> None:
    code, out, _ = plan("Llama-3.1-8B", "--vram-gib", "12", "--context", "4096", "--quantization", "none")
    assert code == 1
    assert "try a LoRA adapter on 4-bit weights (nf4), 8-bit optimizer: fits, in " in out


def test_without_a_context_the_longest_that_fits_is_planned(plan: Run) -> None:
    code, out, _ = plan("Llama-3.1-8B", "--vram-gib", "16")
    longest = out.split("longest context: ")[1].split(" tokens")[0]
    assert code == 0 and f"on 16 GiB, {longest} tokens" in out


def test_one_model_on_the_common_cards(plan: Run) -> None:
    code, out, _ = plan("Phi-4")
    assert code == 0
    assert sum(line.startswith("│") and "GB" in line for line in out.splitlines()) == 6
    assert plan("Llama-3.3-70B", "--context", "2048", "--quantization", "none")[0] == 1


def test_a_card_without_bfloat16_is_said(plan: Run) -> None:
    assert "float16 with loss scaling" in plan("SmolLM2-135M", "--card", "T4")[1]


@pytest.mark.parametrize("card", [(), ("--card", "H100")])
def test_a_context_beyond_the_models_own_does_not_fit(plan: Run, card: tuple[str, ...]) -> None:
    code, out, _ = plan("SmolLM2-135M", *card, "--context", "8193")
    assert code == 1 and "SmolLM2-135M reads at most 8,192 tokens" in out
    assert "does not fit" in out and "try --context 8192" in out and "fits: " not in out
    assert plan("SmolLM2-135M", *card, "--context", "8192")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Lama-3.1-8B",), "did you mean Llama-3.1-8B?"),
        (("Phi-4", "--card", "H1000"), "did you mean H100 80GB?"),
        (("Phi-4", "--card", "H100", "--vram-gib", "3"), "not both"),
        (("Phi-4", "--vram-gib", "-3"), "--vram-gib is -3"),
        (("Phi-4", "--card", "T4", "--context", "100"), "leave room for an answer"),
        (("Phi-4", "--card", "T4", "--rank", "0"), "rank is 0"),
        (("Phi-4", "--method", "full"), "4-bit weights cannot be trained"),
        (("--context", "2048"), "--context needs a MODEL"),
        (("Phi-4", "--prompt", "20000"), "Phi-4 reads 16,384 tokens: --prompt 20000 leaves none"),
    ],
)
def test_what_the_user_can_mend(plan: Run, arguments: tuple[str, ...], message: str) -> None:
    code, _, error = plan(*arguments)
    assert code == 1 and error.startswith("error: ") and message in error


def test_outside_of_a_project_a_folder_can_be_planned(
    plan: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = (ROOT / "presets" / "shapes" / "Phi-4.json").read_text().replace("phi3", "olmo2")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(config)
    monkeypatch.chdir(tmp_path)
    code, out, _ = plan("mine", "--card", "H100")
    assert code == 0 and "olmo2 is not a model type that the planner knows" in out
    assert "presets/shapes is missing here" in plan()[2]


def test_a_run_that_does_not_fit_is_refused_with_table_and_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    on_cpu = replace(QLORA, method="full", quantization="none", optimizer="adamw", weight_bytes=4, is_cuda=False)
    llama, machine = find_shape("Llama-3.1-8B"), Card("this machine's memory", 16 * GIB, True)
    with pytest.raises(UserError) as refused:
        demand(plan_at(llama, on_cpu, machine, 2048))
    message = str(refused.value)
    assert "linear layers, 32 bit" in message and "26.00" in message
    assert "and this machine's memory has 16.0" in message and "try a LoRA adapter on 4-bit weights" in message
    demand(plan_at(find_shape("SmolLM2-135M"), on_cpu, machine, 2048))


def test_the_memory_of_this_machine() -> None:
    assert GIB / 2 < this_host().memory_bytes < 100_000 * GIB


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; from rlvr import cli; sys.argv = ['rlvr', 'plan', 'Phi-4', '--card', 'T4']\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_page_holds_these_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = PAGE.read_text()
    assert with_tables(text) == text, "docs/memory.md is stale: make docs"


def test_a_page_without_a_marker_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match="markers of plan once, and holds them 0 times"):
        with_tables(PAGE.read_text().replace("<!-- plan -->", ""))
