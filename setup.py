"""Puts the workflow's files beside the library into the wheel: a clone is not needed to run it."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = ("rules", "scripts", "envs", "config", "profiles", "resources", "docs")
WORKFLOW = ("Snakefile", *FOLDERS, "README.md", "CHANGELOG.md")


class Build(build_py):
    """Copies the workflow to where ``charloom.core.home`` looks for it."""

    def run(self):
        super().run()
        if self.editable_mode:  # the clone is there
            return
        target = Path(self.build_lib) / "charloom" / "_workflow"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in WORKFLOW:
            if Path(name).is_dir():
                shutil.copytree(name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(name, target / name)


setup(cmdclass={"build_py": Build})
