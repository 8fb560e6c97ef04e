"""The tests on every supported Python at the locked versions; `nox -s lint` and `nox -s types` run the checks alone."""

import nox

nox.options.sessions = ["tests"]


def install_locked(session: nox.Session) -> None:
    """Install from the lock, in the steps of `make setup`."""
    session.install("--require-hashes", "--no-deps", "--requirement", "requirements/lock.txt")
    session.install("--requirement", "requirements/torch.txt")
    session.install("--no-deps", "--no-build-isolation", "--editable", ".")


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    install_locked(session)
    session.run("pytest", *(session.posargs or ("-n", "auto", "--maxprocesses", "4")), env={"OMP_NUM_THREADS": "1"})


@nox.session
def sdks(session: nox.Session) -> None:
    """The core suite through every supported release of the official SDK."""
    install_locked(session)
    releases = {"EZTINKER_SDKS": "0.18.2,0.25.0,0.38.0,newest", "OMP_NUM_THREADS": "1"}
    session.run("pytest", "tests/e2e/test_sdk_versions.py", *session.posargs, env=releases)


@nox.session
def lint(session: nox.Session) -> None:
    install_locked(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    install_locked(session)
    session.run("pyright", "--pythonpath", f"{session.bin}/python")
