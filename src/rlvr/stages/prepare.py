"""params → data/prepared: tables, tokenizer, scratch model, card."""

import shutil
from pathlib import Path

from rlvr.problems import tables
from rlvr.problems.prepare import prepare
from rlvr.runtime.messages import warn
from rlvr.stages.begin import stage
from rlvr.stages.provenance import provenance, write_card

SECTIONS = ("compute", "model", "prepare", "rollout", "verifiers")
WRITING = Path(".checkpoints/prepare")  # becomes tables.FOLDER when it is complete; the earlier tables stay until then


def main() -> None:
    with stage("prepare", SECTIONS) as cfg:
        shutil.rmtree(WRITING, ignore_errors=True)
        WRITING.mkdir(parents=True)
        card = prepare(cfg, WRITING, WRITING / tables.BASE.name)
        write_card(WRITING, card | provenance(cfg, device="cpu"))
        shutil.rmtree(tables.FOLDER, ignore_errors=True)
        tables.FOLDER.parent.mkdir(parents=True, exist_ok=True)
        WRITING.rename(tables.FOLDER)
        for warning in card["origin"]["warnings"]:
            warn(warning)
        counts = ", ".join(f"{name} {split['count']}" for name, split in card["splits"].items())
        print(f"prepared {cfg.prepare.task}: {counts}; vocabulary {card['vocabulary']}")
