"""params → data/prepared: tables, tokenizer, scratch model, card."""

import shutil

from rlvr import prepared
from rlvr.prepare import prepare
from rlvr.provenance import provenance, write_json
from rlvr.stages.begin import stage

SECTIONS = ("compute", "model", "prepare", "rollout")


def main() -> None:
    with stage("prepare", SECTIONS) as cfg:
        shutil.rmtree(prepared.FOLDER, ignore_errors=True)
        prepared.FOLDER.mkdir(parents=True)
        card = prepare(cfg, prepared.FOLDER, prepared.BASE)
        write_json(prepared.FOLDER / "card.json", card | provenance(cfg, device="cpu"))
        for warning in card["origin"]["warnings"]:
            print(f"warning: {warning}")
        counts = ", ".join(f"{name} {split['count']}" for name, split in card["splits"].items())
        print(f"prepared {cfg.prepare.task}: {counts}; vocabulary {card['vocabulary']}")
