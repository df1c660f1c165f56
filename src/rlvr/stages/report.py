"""logs, metrics, evaluations, cards of data and models → reports: report.html, figures, CSV tables."""

from __future__ import annotations

import shutil
from pathlib import Path

from rlvr.report.build import build_report
from rlvr.report.load import load_inputs
from rlvr.stages.begin import stage

SECTIONS = ("compute", "evaluate", "report")
FOLDER = Path("reports")


def main() -> None:
    with stage("report", SECTIONS) as cfg:
        conclusion, files = build_report(
            load_inputs(Path()),
            examples=cfg.report.examples,
            resamples=cfg.evaluate.bootstrap_resamples,
            seed=cfg.compute.seed,
        )
        shutil.rmtree(FOLDER, ignore_errors=True)
        for name, content in files.items():
            path = FOLDER / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        print("\n".join([*conclusion.sentences, f"wrote {FOLDER / 'report.html'}"]))
