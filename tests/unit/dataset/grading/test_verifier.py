"""The math-verify process: replaced when it hangs or dies, and gone when its parent is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from eztinker.dataset.grading import verifier as verifier_module
from eztinker.dataset.grading.verifier import MathVerifier


@pytest.fixture
def verifier() -> Iterator[MathVerifier]:
    verifier = MathVerifier()
    yield verifier
    verifier.close()


def worker_pid(verifier: MathVerifier) -> int:
    assert verifier._worker is not None
    return verifier._worker._process.pid


def test_math_verify_compares_values_not_spellings(verifier: MathVerifier) -> None:
    pairs = [("72", "36+36"), ("0.75", "\\frac{3}{4}"), ("72", "73"), ("x+1", "1+x"), ("72", "?!")]
    assert verifier.verdicts(pairs) == [True, True, False, True, None]


def test_many_pairs_are_answered_in_order(verifier: MathVerifier) -> None:
    pairs = [(str(number), str(number - number % 3)) for number in range(100)]
    assert verifier.verdicts(pairs) == [number % 3 == 0 for number in range(100)]


def test_an_answer_that_needs_too_much_memory_has_no_verdict(verifier: MathVerifier) -> None:
    assert verifier.verdicts([("72", "10^{10^{11}}+1"), ("7", "7")]) == [None, True]


def test_a_hanging_worker_is_replaced_and_the_rest_of_the_batch_is_graded(
    verifier: MathVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier_module, "ANSWER_LIMIT_SECONDS", 0.3)
    assert verifier.verdicts([("7", "7")]) == [True]
    hanging = worker_pid(verifier)
    os.kill(hanging, signal.SIGSTOP)
    assert verifier.verdicts([("1", "1"), ("2", "2"), ("3", "4")]) == [None, True, False]
    assert worker_pid(verifier) != hanging
    with pytest.raises(ProcessLookupError):
        os.kill(hanging, 0)


def test_a_killed_worker_costs_one_verdict_at_most(verifier: MathVerifier) -> None:
    assert verifier.verdicts([("7", "7")]) == [True]
    os.kill(worker_pid(verifier), signal.SIGKILL)
    assert verifier.verdicts([("1", "1"), ("2", "2")]) == [None, True]


def test_an_interrupted_question_leaves_no_verdict_behind_for_the_next(
    verifier: MathVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    assert verifier.verdicts([("7", "7")]) == [True]
    with monkeypatch.context() as patch:
        patch.setattr(verifier_module._Worker, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            verifier.verdicts([("1", "1"), ("2", "2")])
    assert verifier.verdicts([("3", "4"), ("5", "6")]) == [False, False]


def test_a_worker_that_cannot_start_gives_no_verdicts(verifier: MathVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    without_packages = [sys.executable, "-I", "-S", "-m", "eztinker.dataset.grading.worker"]
    monkeypatch.setattr(verifier_module, "_WORKER", without_packages)
    assert verifier.verdicts([("7", "7"), ("8", "8")]) == [None, None]


def test_the_worker_ends_when_its_parent_is_killed() -> None:
    program = (
        "import time\n"
        "from eztinker.dataset.grading.verifier import shared_verifier\n"
        "shared_verifier().verdicts([('7', '7')])\n"
        "print(shared_verifier()._worker._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    assert has_ended(worker, within_seconds=10.0)


def test_a_forked_child_gets_a_worker_of_its_own() -> None:
    """Two processes that shared a pipe would read each other's verdicts."""
    program = (
        "import os\n"
        "from eztinker.dataset.grading import evaluate_answer\n"
        "assert evaluate_answer('7', '7')['strategy'] == 'math_verify'\n"
        "child = os.fork()\n"
        "rights = [evaluate_answer(str(n), '7')['is_correct'] for n in range(300)]\n"
        "assert rights == [n == 7 for n in range(300)]\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def has_ended(pid: int, *, within_seconds: float) -> bool:
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False
