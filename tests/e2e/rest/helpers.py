"""What the tests of this folder send and look up."""

from __future__ import annotations

from datetime import datetime

import tinker
from tinker import types

PROMPT = types.ModelInput.from_ints([10, 11, 12])
DATUM = types.Datum(
    model_input=PROMPT,
    loss_fn_inputs={"target_tokens": [11, 12, 13], "weights": [1.0, 1.0, 1.0]},  # pyright: ignore
)


def names(rest: tinker.RestClient, trainer: tinker.TrainingClient) -> list[str]:
    return [row.checkpoint_id for row in rest.list_checkpoints(trainer.model_id).result().checkpoints]


def audit(admin: tinker.AdminClient, day: datetime, event_type: str = "all") -> list[types.AuditLogEntry]:
    return admin.get_audit_log(event_type, day.date()).result().entries  # pyright: ignore
