"""What the log is asked for a training step, beside writing it."""

from __future__ import annotations

import httpx

from tests.integration.api.test_timing import statements
from tests.wire import new_run, optim_step, outcome


def test_a_run_in_use_is_not_looked_up_again(http: httpx.Client):
    run = new_run(http)
    outcome(http, optim_step(http, run, 1))
    for seq_id in (2, 3, 4):
        with statements() as asked:
            optim_step(http, run, seq_id)
        assert any("INSERT INTO operations" in statement for statement in asked)
        if not any("FROM models" in statement for statement in asked):
            break
        assert seq_id < 4, asked  # the server's own housekeeping may have come between, but not each time
