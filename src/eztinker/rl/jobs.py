"""Training steps that were queued and can be waited for by id, in the process that queued them."""

from __future__ import annotations

import concurrent.futures
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eztinker.errors import NotFound
from eztinker.rl.connection import sdk_errors
from eztinker.rl.runs import OpenRun
from eztinker.rl.sampling import stop_token_id
from eztinker.rl.training import Example, TrainingStep, submit_step

if TYPE_CHECKING:
    import tinker


@dataclass(frozen=True, slots=True)
class _Job:
    step: TrainingStep
    checkpoint: tinker.APIFuture[tinker.types.SaveWeightsResponse]


_jobs: dict[str, _Job] = {}


def queue_training(run: OpenRun, examples: Sequence[Example], learning_rate: float) -> str:
    """Queue one optimizer step over `examples` and a checkpoint behind it; the id is for `wait_for_job`."""
    job_id = f"job_{secrets.token_hex(6)}"
    step = submit_step(run.client, examples, stop_token_id(run.tokenizer), learning_rate)
    _jobs[job_id] = _Job(step, run.save())
    return job_id


def wait_for_job(job_id: str, timeout: float = 120) -> dict[str, Any]:
    """Wait for a training step that this process has queued.

    Returns:
        `job_id`, `status` ("completed"), `error` (None) and `result`: the mean `loss` per trained token in nats
        and the path of the `checkpoint` behind the step.
    Raises:
        TimeoutError: it was not done after `timeout` seconds; it goes on, and can be waited for again.
        UserError: it failed, as it always would; the message is the server's sentence.
        ServerError: it failed on the server's side; the message is the server's sentence.
        NotFound: this process has queued no such job.
    """
    job = _jobs.get(job_id)
    if job is None:
        raise NotFound(f"No job {job_id} was queued by this process; a job can be waited for only where it was queued")
    parts = [job.step.forward_backward.future(), job.step.optim_step.future(), job.checkpoint.future()]
    if concurrent.futures.wait(parts, timeout).not_done:
        raise TimeoutError(f"Job {job_id} was not done after {timeout:g} seconds; it goes on, so wait for it again")
    loss = job.step.mean_loss()
    with sdk_errors():
        path = job.checkpoint.result().path
    return {"job_id": job_id, "status": "completed", "result": {"loss": loss, "checkpoint": path}, "error": None}
