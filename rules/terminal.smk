# What the user is told about a run: the display in the terminal, and the command of `notify:`.
from snakemake.logging import logger as snakemake_log

from charloom.core import last_run
from charloom.workflow import devices, notify, updates

JOBS_HERE = not last_run.on_other_machines(sys.argv, Path())
# For the warning that there is no GPU: if the jobs run here, a CUDA device that is named must be in this machine.
GPU_FOUND = notices.has_gpu(WORKFLOW.device, here=JOBS_HERE)

if workflow.is_main_process:
    import snakemake_logger_plugin_charloom

    snakemake_logger_plugin_charloom.attach(workflow.output_settings, snakemake_log)
    for line in updates.lines(updates.asked(WORKFLOW.names, sys.argv)):
        print(line, file=sys.stderr)


@cache
def gpu_shortage(count):
    """A line if a training on that many GPUs would find fewer on this machine, and runs here."""
    return devices.shortage(WORKFLOW.device, count) if JOBS_HERE else ""


def notes_on(character):
    """What to know about a character before it is made; too few GPUs are a note in a dry run and stop a real one."""
    lines = notices.notices(character, BASES[character.base], GPU_FOUND, OWN_PYTHON)
    few = gpu_shortage(WORKFLOW.gpus_for(character)) if IS_DRY else ""
    return [*lines, few] if few else lines


def need_gpus(names):
    """Stop before anything is made if a training of this run would find too few GPUs."""
    for name in names:
        if few := gpu_shortage(WORKFLOW.gpus_for(person(name))):
            stop([f"{name}: {few}"])


def remember():
    """Record how these characters are trained, for other commands about them."""
    if workflow.is_main_process:
        trained = [name for name, rules in made().items() if "train_segment" in rules]
        last_run.remember(trained, config, sys.argv[1:])


def listen():
    """Run the user's command for every character that is done or has failed from now on."""
    if WORKFLOW.notify:
        jobs = {
            job.jobid: (job.wildcards_dict.get("character", ""), job.rule.name)
            for job in workflow.dag.needrun_jobs()
        }
        snakemake_log.addHandler(notify.Notifier(WORKFLOW.notify, jobs))


def wait_for_command():
    """Wait until the user's command has ended."""
    for handler in snakemake_log.handlers:
        if isinstance(handler, notify.Notifier):
            handler.wait()


def made():
    """The rules of this call by character; their results are now those of this version."""
    rules = {}
    for job in workflow.dag.jobs:
        if name := job.wildcards_dict.get("character"):
            rules.setdefault(name, set()).add(job.rule.name)
    return rules
