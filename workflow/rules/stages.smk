# One rule per stage. A job is `dvc repro --single-item STAGE`: DVC removes old outputs, runs the command, updates
# dvc.lock and fills its cache; Snakemake plans, schedules, logs and benchmarks. Edges are stamps, never artifacts.
STAGES = flow.load()
PYTHON = sys.executable

if workflow.is_main_process:  # a cluster job must not look: its main process did
    try:
        stale = flow.sync(STAGES)
    except flow.DvcError as error:
        raise WorkflowError(str(error))
    for _name, _reason in stale.items():
        logger.info(f"dvc: {_name} is out of date: {_reason}")
    _exit_gracefully = JobScheduler.exit_gracefully  # its handler of SIGTERM

    def exit_gracefully(scheduler, *signal_and_frame):
        flow.end_jobs()
        _exit_gracefully(scheduler, *signal_and_frame)

    JobScheduler.exit_gracefully = exit_gracefully


def force(stage):
    settings = workflow.dag_settings  # known only after parsing, hence called from a lambda
    return "--force" if settings.forceall or stage in settings.forcerun else ""


for _name, _stage in STAGES.items():

    rule:
        name:
            _name
        input:
            sources=ancient(_stage.sources),
            upstream=[STAGES[name].stamp for name in _stage.upstream],
        output:
            _stage.stamp,
        log:
            _stage.log,
        benchmark:
            _stage.benchmark
        threads: _stage.threads
        resources:
            **_stage.resources,
        params:
            stage=_name,
            python=lambda wildcards: PYTHON,  # a function: in a text, the braces of a path would be wildcards
            force=lambda wildcards, stage=_name: force(stage),
        message:
            f"{_name}: {_stage.description}"
        # Only {placeholders} here: a Python expression would be read after the loop, for the last stage.
        # exec: the job is a direct child of Snakemake and ends with it.
        shell:
            "PYTHONPATH=src exec {params.python:q} -m rlvr.flow {params.stage} {params.force}"
