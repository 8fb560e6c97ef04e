"""The engine's main loop: take commands, do a bounded piece of work, report, again."""

from __future__ import annotations

import logging
import os
import time

from eztinker.engine.scheduler import Job, Scheduler
from eztinker.errors import Cancelled, ConfigError
from eztinker.failpoints import reach
from eztinker.model.device import choose_device, choose_dtype, is_batch_invariant, kernels_text, set_up_cpu
from eztinker.protocol.frames import (
    AnyCommand,
    Cancel,
    Configure,
    Progress,
    Ready,
    Refused,
    Sample,
    Shutdown,
    Started,
    Status,
)
from eztinker.worker.base_models import BaseModels
from eztinker.worker.failures import failed
from eztinker.worker.link import Link, LinkClosed
from eztinker.worker.operations import Operations, success

log = logging.getLogger(__name__)

STATUS_INTERVAL_SECONDS = 1.0

_GUARANTEE = {
    True: "What is sampled has the same bits whatever is sampled beside it",
    False: "What is sampled beside a sequence may change last bits of its logprobs, and now and then a token",
}
"""Sentence in the engine's first log line, by whether the engine is batch invariant."""


def serve(link: Link) -> None:
    """Run commands from `link` until it closes or says to stop."""
    try:
        configure, *early = link.receive(wait=True)
        assert isinstance(configure, Configure), "the first command configures the engine"
        try:
            loop = _start(link, configure)
        except ConfigError as error:
            link.send(Refused(message=error.message))
            return
        loop.take(early)
        while not loop.is_stopped:
            loop.once()
    except LinkClosed:
        log.info("The API process has gone; the engine stops")


def _start(link: Link, configure: Configure) -> Loop:
    num_threads = set_up_cpu(configure.num_threads)
    device = choose_device(configure.device)
    dtype = choose_dtype(configure.dtype, device)
    scheduler = Scheduler(configure.max_train_tokens, on_start=lambda op_id: link.send(Started(op_id=op_id)))
    base_models = BaseModels(
        configure.base_models,
        dtype=dtype,
        device=device,
        max_batch_size=configure.max_batch_size,
        scheduler=scheduler,
    )
    ready = Ready(
        pid=os.getpid(),
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        num_threads=num_threads,
        kernels=kernels_text(dtype, device),
        is_batch_invariant=is_batch_invariant(dtype, device),
    )
    log.info(
        "The engine computes on %s in %s, threads: %d. Own kernels: %s. %s",
        ready.device,
        ready.dtype,
        num_threads,
        ready.kernels,
        _GUARANTEE[ready.is_batch_invariant],
    )
    link.send(ready)
    return Loop(link, scheduler, Operations(base_models))


class Loop:
    """Commands in, events out, and the scheduler's turns in between."""

    def __init__(self, link: Link, scheduler: Scheduler, operations: Operations) -> None:
        self._link, self._scheduler, self._operations = link, scheduler, operations
        self._status_sent = 0.0
        self.is_stopped = False

    def once(self) -> None:
        self.take(self._link.receive(wait=self._scheduler.is_idle))
        if ended := self._scheduler.turn(lambda: self._link.has_commands):
            self._report(ended)
        self._report_news()
        self._send_status()

    def take(self, commands: list[AnyCommand]) -> None:
        for command in commands:
            match command:
                case Sample():
                    self._start_sampling(command)
                case Cancel():
                    self._cancel(command)
                case Shutdown():
                    self.is_stopped = True
                case Configure():
                    raise AssertionError("the engine is configured once")
                case _:
                    self._scheduler.submit(self._operations.training(command))

    def _start_sampling(self, command: Sample) -> None:
        try:
            self._operations.start_sampling(command)
        except Exception as error:
            self._link.send(failed(command.op_id, error))

    def _cancel(self, command: Cancel) -> None:
        if self._scheduler.cancel(command.op_id):
            self._link.send(failed(command.op_id, Cancelled()))

    def _report(self, ended: list[Job]) -> None:
        events = [failed(job.op_id, job.error) if job.error else success(job) for job in ended]
        reach("engine.report")
        self._link.send(*events)
        reach("engine.reported")

    def _report_news(self) -> None:
        for job, tokens in self._scheduler.new_tokens():
            self._link.send(Progress(op_id=job.op_id, start=job.num_reported - len(tokens), tokens=tokens))

    def _send_status(self) -> None:
        now = time.monotonic()
        if now - self._status_sent >= STATUS_INTERVAL_SECONDS:
            self._status_sent = now
            self._link.send(Status(status=self._scheduler.status()))
