"""The whole miniature workflow where it can reach nothing: no network, every disk read-only but its own folder.

    python tests/hostile/sealed.py --output benchmarks/results/sealed.json

Needs root on Linux (``unshare``, ``mount``); with ``strace`` it also sees what was tried and refused. A folder of
pictures with masks becomes a LoRA, gallery, bundle and pages, as ordinary processes. Afterwards HOME, the folder for
temporary files and the project hold nothing but what a run may write, and no file holds a key of the environment.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "faults")]

from fault_project import OURS, PROJECTS, SECRET, SECRETS, USERS, digests, prepare, secrets_in  # noqa: E402
from small_project import ROOT, TARGET  # noqa: E402

SEALED = """set -e
mount --make-rprivate /
mkdir -p "$PLACE/own"
mount -t tmpfs sealed "$PLACE/own"
cp -a "$PLACE/begun/." "$PLACE/own"
mount -t tmpfs shm /dev/shm
for disk in $(awk '$3 ~ /^(ext[234]|xfs|btrfs|zfs|overlay|nfs.*|fuse.*)$/ {print $2}' /proc/mounts)
do mount -o remount,bind,ro "$disk"; done
if touch "$PLACE/begun/x" 2>/dev/null; then echo "the disks are not read-only" >&2; exit 3; fi
if [ "$(awk -F: 'NR > 2 && $1 !~ /lo/' /proc/net/dev)" ]; then echo "there is a network" >&2; exit 4; fi
cd "$PLACE/own/project"
set +e
"$@" > "$PLACE/own/output" 2>&1
code=$?
tar -C "$PLACE/own" -cf - . >&3
exit $code
"""
"""What is made lies on a disk in memory, which alone can be written to, and is handed out at the end."""
TRIED = re.compile(r'(?:open|openat|creat|mkdir|rename|link|symlink|unlink)[^(]*\(.*?"((?:[^"\\]|\\.)*)"(.*)')


def tried(trace: Path, allowed: tuple[str, ...]) -> dict[str, int]:
    """Places outside of ``allowed`` that some process opened to write, or wanted to, with how often."""
    counts: dict[str, int] = {}
    for part in trace.parent.glob(f"{trace.name}*"):
        for line in part.read_text(errors="replace").splitlines():
            match = TRIED.search(line)
            if not match or ("open" in line.split("(")[0] and not re.search("O_WRONLY|O_RDWR|O_CREAT", line)):
                continue
            path = match[1]
            if path.startswith("/") and not path.startswith(allowed):
                place = re.sub(r"\d+", "N", path)
                counts[place] = counts.get(place, 0) + 1
    return counts


def run(place: Path, traced: bool) -> dict[str, object]:
    begun = place / "begun"
    (begun / "home").mkdir(parents=True)
    (begun / "tmp").mkdir()
    prepare(begun / "project", "folder")
    users = digests(begun / "project", *USERS)
    own = place / "own"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "HF_", "TORCH"))},
        **dict.fromkeys(SECRETS, SECRET),
        "PLACE": str(place),
        "HOME": str(own / "home"),
        "TMPDIR": str(own / "tmp"),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "CHARLOOM_TERMINAL": "plain",
    }
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "1", *PROJECTS["folder"]]
    if traced:
        calls = "trace=open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,connect"
        command = ["strace", "-f", "-qq", "--signal=none", "-s", "300", "-e", calls, "-o", str(own / "trace"), *command]
    script = place / "sealed.sh"
    script.write_text(SEALED)
    started = time.monotonic()
    with open(place / "made.tar", "wb") as tar:
        sealed = ["unshare", "--mount", "--net", "bash", str(script), *command]
        done = subprocess.run(["bash", "-c", 'exec 3>&1 1>&2; exec "$@"', "-", *sealed], env=environment, stdout=tar)
    made = place / "made"
    made.mkdir()
    subprocess.run(["tar", "-C", made, "-xf", place / "made.tar"], check=True)
    output = (made / "output").read_text() if (made / "output").exists() else ""
    if done.returncode:
        raise RuntimeError(f"ended with {done.returncode}\n{output[-4000:]}")
    project = made / "project"
    trace = made / "trace"
    connects = []
    if traced:
        lines = trace.read_text(errors="replace").splitlines()
        connects = sorted({line.split("connect(", 1)[1][:120] for line in lines if "AF_INET" in line})
    return {
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.monotonic() - started),
        "jobs": len(re.findall(r"^Finished jobid", output, re.MULTILINE)),
        "lora": (project / TARGET).stat().st_size,
        "traced": traced,
        "connections": connects,
        "tried to write elsewhere": tried(trace, (str(own), "/dev/null", "/dev/tty", "/dev/shm", "/proc/self"))
        if traced
        else {},
        "left in HOME": sorted(str(path.relative_to(made / "home")) for path in (made / "home").rglob("*")),
        # torch makes an empty folder for the kernels that nobody compiles here.
        "left in TMPDIR": sorted(
            path.name for path in (made / "tmp").iterdir() if path.is_file() or any(path.rglob("*"))
        ),
        "beside the folders of a run": sorted({*os.listdir(project)} - OURS - {*USERS}),
        "changed of the user's": sorted(
            name for name, digest in digests(project, *USERS).items() | users.items() if users.get(name) != digest
        ),
        "files with a key": [name for name in secrets_in(made) if name != "trace"],
        "a key in the output": SECRET in output,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("work/sealed.json"))
    parser.add_argument("--no-trace", action="store_true", help="without strace, which is slow")
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="sealed-"))
    try:
        found = run(place, not arguments.no_trace and shutil.which("strace") is not None)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    bad = ("connections", "tried to write elsewhere", "left in TMPDIR", "beside the folders of a run")
    bad += ("changed of the user's", "files with a key", "a key in the output")
    sys.exit(any(found[name] for name in bad))


if __name__ == "__main__":
    main()
