"""params → data/prepared: tables, tokenizer, scratch model, card."""

import shutil

from rlvr.problems import tables
from rlvr.problems.prepare import prepare
from rlvr.runtime.messages import warn
from rlvr.stages.begin import stage
from rlvr.stages.provenance import provenance, write_json

SECTIONS = ("compute", "model", "prepare", "rollout")


def main() -> None:
    with stage("prepare", SECTIONS) as cfg:
        shutil.rmtree(tables.FOLDER, ignore_errors=True)
        tables.FOLDER.mkdir(parents=True)
        card = prepare(cfg, tables.FOLDER, tables.BASE)
        write_json(tables.FOLDER / "card.json", card | provenance(cfg, device="cpu"))
        for warning in card["origin"]["warnings"]:
            warn(warning)
        counts = ", ".join(f"{name} {split['count']}" for name, split in card["splits"].items())
        print(f"prepared {cfg.prepare.task}: {counts}; vocabulary {card['vocabulary']}")
