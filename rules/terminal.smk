# What the user hears of a run: the display in the terminal, and the command of `notify:`.
from snakemake.logging import logger as snakemake_log

from charloom.core import last_run
from charloom.workflow import devices, notify, updates

JOBS_HERE = not last_run.on_other_machines(sys.argv, Path())
# Whether to warn that there is no GPU: a CUDA device that is named must be in this machine if the jobs run here.
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
    """What to know of a character before it is made; a run that trains on too few GPUs stops instead of saying so."""
    lines = notices.notices(character, BASES[character.base], GPU_FOUND, OWN_PYTHON)
    few = gpu_shortage(WORKFLOW.gpus_for(character)) if IS_DRY else ""
    return [*lines, few] if few else lines


def need_gpus(names):
    """Stop before anything is made if one of the characters that this run trains would find too few GPUs."""
    for name in names:
        if few := gpu_shortage(WORKFLOW.gpus_for(person(name))):
            stop([f"{name}: {few}"])


def remember():
    """How these characters are trained, for commands beside this one."""
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


def told():
    """Wait for the user's command."""
    for handler in snakemake_log.handlers:
        if isinstance(handler, notify.Notifier):
            handler.wait()


def made():
    """The rules that this call is about, by character: all of them are made by this version now."""
    rules = {}
    for job in workflow.dag.jobs:
        if name := job.wildcards_dict.get("character"):
            rules.setdefault(name, set()).add(job.rule.name)
    return rules
