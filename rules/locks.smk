# After a kill or a power cut the next ordinary call continues, without `--unlock`. The command line is read here
# because Snakemake knows only later whether this is a dry run, which takes no lock but complains about one.
from charloom.workflow import stale_locks

DRY = re.compile("--dry-?run|-[a-zA-Z]*n[a-zA-Z]*")
IS_DRY = any(map(DRY.fullmatch, sys.argv))

if workflow.is_main_process:
    if stale_locks.enter(stale_locks.FOLDER, dry=IS_DRY):
        print(
            "note: an earlier run was killed and left this folder locked: unlocked",
            file=sys.stderr,
        )
