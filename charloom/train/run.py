"""A run in memory: how it is loaded and resumed, and how its checkpoints and states are written.

A run may be killed at any moment: files appear whole or not at all, and metrics before the checkpoint that marks their
step as complete. The state, three times as large, is written while previews are drawn; a run killed before that resumes
from the previous state, to the same checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from charloom.core.store import Store
from charloom.engine import memory
from charloom.lora import export, movement
from charloom.lora import start as starting
from charloom.lora.attach import attach
from charloom.lora.network import unmatched
from charloom.train import holdout, origin
from charloom.train import state as states
from charloom.train.data import TrainingData
from charloom.train.job import TrainJob, resolve
from charloom.train.keys import CHECKPOINT, METRICS, checkpoint_key, manifest_digest, recipe_number
from charloom.train.metrics import Progress
from charloom.train.records import Records
from charloom.train.trainable import Trainable


class Run:
    """A run that is ready for its next update, resumed from its newest intact state if there is one.

    ``start`` is the step from which it resumes, ``last`` the last step of the whole run, which later calls may reach.
    Only the first rank may write: :meth:`begin`, :meth:`save` and :meth:`keep_state` are for :meth:`together`.

    Args:
        job: what to train.
        store: where checkpoints and states are.
        until: last step of this call.
        on_progress: takes progress now and then.
        log: takes one line of log.

    Raises:
        UserError: damaged input files, a state of another run, missing packages.
    """

    def __init__(
        self,
        job: TrainJob,
        store: Store,
        until: int,
        on_progress: Callable[[Progress], None],
        log: Callable[[str], None],
    ) -> None:
        self.job, self.store, self.log, self.settings = job, store, log, job.settings
        train = job.settings.train
        self.device, dtype = resolve(job.device, train.dtype)
        earlier = self._newest_state(until)
        self.start = earlier.step if earlier else 0
        # How the run was started: it continues in the same way, to the same bytes.
        self._made = earlier.values.get("engine", {}) if earlier else {}
        self._apart = origin.one_by_one(train, self._made, job.ranks.count)
        computed = self.settings.one_by_one() if self._apart else self.settings

        self.data = TrainingData(job.manifest, computed)
        self.model = job.load_model(dtype, memory.load_device(job.engine, self.device))
        self.adapter = attach(self.model, self.settings.network, train.seed)
        for pattern in unmatched(self.settings.network.modules, self.adapter.layers):
            log(f"warning: network.modules: '{pattern}' matches no layer of the base; correct it or take it out")
        self.model.train()
        self._initial = self._initialised()
        self.trainable = Trainable(self.adapter, train, job.ranks)
        options = origin.taken_over(job.engine, self._made)
        self.engine = job.make_engine(
            self.model, self.adapter, computed, self.device, options, self.trainable.reserve, log
        )
        if changed := origin.differences(self._made, self._facts()):
            log(changed)
        self.trainable.begin(self.device)
        if earlier is not None:
            states.check_shapes(earlier, self.adapter.parameters)
            self.trainable.restore(earlier)

        self.checkpoints = set(self.settings.checkpoint_steps(until))
        """Updates of this call after which a checkpoint is written."""
        whole = self.settings.checkpoint_steps(max(until, train.steps))
        self.last = whole[-1]
        # At these steps a state without its checkpoint means that the run was killed between the two.
        self._complete = {*whole, until}
        smoothed = earlier.values["metrics"] if earlier else None
        self.records = Records(job, store, self.start, until, whole, on_progress, smoothed)

    def _newest_state(self, until: int) -> states.State | None:
        """The newest intact state, the same one for all ranks."""
        ranks, key = self.job.ranks, self.job.run_key
        # Rank 0 puts damaged states aside; the others read the one that it found.
        found = states.newest(self.store, key, until) if ranks.first else None
        step = ranks.decided(found.step if found else 0)
        if not ranks.first and step:
            found = states.newest(self.store, key, step)
        return found

    def _initialised(self) -> dict[str, Tensor]:
        """Start the adapter from the job's LoRA, if it names one; returns the parameters it was given, by name."""
        if not self.job.init:
            return {}
        started = starting.start(self.adapter, self.job.init)
        for line in started.notes:
            self.log(f"start: {line}")
        return started.values

    def _facts(self) -> dict[str, Any]:
        """How the engine computes: stored in states, and compared with how the run was started."""
        return origin.facts(self.engine.facts(), self._made, self._apart)

    def together(self, write: Callable[[int], None], step: int) -> None:
        """Let the first rank ``write`` a step; all wait for it, and make sure that they have the same parameters."""
        # A rank that ended before the first has saved would end that one too.
        if self.job.ranks.first:
            write(step)
        self.job.ranks.check(self.trainable.parameters)

    def begin(self, step: int) -> None:
        """Complete the step to resume from if a kill has left it half done; store and draw a new run's step 0."""
        if step in self._complete and not self.job.stored(self.store, step):
            self._checkpoint(step)  # killed between saving the state and the checkpoint
        if not step:
            if self.job.init:
                self._checkpoint(0)
            self._draw(0, None)

    def save(self, step: int) -> None:
        """Measure, and store everything of a step: records, state, checkpoint, previews."""
        values: dict[str, Any] = {"adapter": self._movement(step)}
        if self.job.holdout is not None:
            values["holdout"] = self._evaluate(self.job.holdout)
        self.records.metrics.write(step, values)
        self._keep_metrics(step)
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(states.save, self.store, self._state(step))
            self._checkpoint(step)
            self.records.progress.checkpoint(step)
            self._draw(step, self.store.path(CHECKPOINT, checkpoint_key(self.job.run_key, step), ".safetensors"))
        writing.result()

    def keep_state(self, step: int) -> None:
        """Store only what is needed to resume from a step."""
        self._keep_metrics(step)
        states.save(self.store, self._state(step))

    def _keep_metrics(self, step: int) -> None:
        with self.store.put(METRICS, checkpoint_key(self.job.run_key, step), ".jsonl") as path:
            self.records.metrics.copy_to(path)

    def _state(self, step: int) -> states.State:
        tensors, optimizer = self.trainable.state()
        values = {"optimizer": optimizer, "metrics": self.records.metrics.values(), "engine": self._facts()}
        return states.State(self.job.run_key, step, tensors, values)

    def _checkpoint(self, step: int) -> None:
        network, dtype = self.settings.network, self.settings.save.dtype
        with self.store.put(CHECKPOINT, checkpoint_key(self.job.run_key, step), ".safetensors") as path:
            export.export(path, self.trainable.exported(), network, dtype, self._header(step))

    def _header(self, step: int) -> dict[str, str]:
        job, data, settings = self.job, self.data, self.settings
        provenance = {
            **job.provenance,
            "recipe": recipe_number(settings.network.dropout, settings.train.draws_per_step),
            "dataset_digest": manifest_digest({"items": data.items, "variants": data.variants}),
            "run_key": job.run_key,
            "settings": settings.slice(),
            "step": step,
            "sigma_histogram": data.sigma_histogram(step),
        }
        return export.metadata(settings.network, title=job.title, trigger=job.trigger, step=step, provenance=provenance)

    def _evaluate(self, manifest: Path) -> dict[str, float]:
        """Held-out loss of the weights as a checkpoint holds them: averaged, rounded, without dropout."""
        network, dtype = self.settings.network, self.settings.save.dtype

        def evaluated() -> dict[str, float]:
            return holdout.evaluate(self.engine.predict, self.adapter, manifest, self.settings, self.device)

        with self.adapter.holding(export.as_written(self.trainable.exported(), network, dtype)):
            self.model.eval()
            try:
                with contextlib.suppress(torch.OutOfMemoryError):
                    return evaluated()
                self.engine.drop_graphs()  # it needs memory besides that of recorded steps
                return evaluated()
            finally:
                self.model.train()

    def _movement(self, step: int) -> dict[str, Any]:
        """How far the exported weights have moved from their start; logs a line if they have hardly moved."""
        start, exported = self._initial, self.trainable.exported()
        way = {name: p.detach().cpu() - start[name] if name in start else p for name, p in exported.items()}
        share = movement.share(way, step)
        found: dict[str, Any] = {"moved": movement.moved(way), "of_adamw": share}
        if line := movement.complaint(share, step, self.settings.slice()["train"]):
            self.log(f"warning: {line}")
            found["problem"] = line
        return found

    def _draw(self, step: int, checkpoint: Path | None) -> None:
        """Let the job draw previews of a checkpoint, or (None) of the base before the first."""
        if self.job.on_checkpoint:
            self.records.progress.drawing()
            self.job.on_checkpoint(step, checkpoint, self.engine, self.records.stop.asked)
            self.records.progress.drawn(self.job.log_dir / "newest")
