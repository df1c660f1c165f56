# Shows the stages of dvc.yaml to Snakemake, one rule each; DVC decides what is stale (docs/decisions/0001).
from pathlib import Path
import sys

sys.path.insert(0, str(Path(workflow.basedir) / "src"))

from snakemake.exceptions import WorkflowError
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.utils import min_version

from rlvr import flow
from rlvr.config import load_config
from rlvr.runtime.machine import check_folder
from rlvr.types import UserError

min_version("9.0")

if config:  # only --config and --configfile can fill it
    raise WorkflowError(
        f"--config/--configfile ({', '.join(config)}) would bypass params.yaml, which DVC tracks. "
        "Edit params.yaml, or use `dvc exp run -S key=value`."
    )
try:
    check_folder()
    load_config()
except UserError as error:
    raise WorkflowError(str(error))


rule all:
    input:
        lambda wildcards: [stage.stamp for stage in STAGES.values()],
    message:
        "every stage of dvc.yaml"
    default_target: True


include: "workflow/rules/stages.smk"
