from __future__ import annotations

import dataclasses

import typer

from eztinker.cli.checks import Verdict, all_checks
from eztinker.cli.output import JsonFlag, print_json, print_table

_SIGNS = {Verdict.GOOD: "ok", Verdict.NOTE: "note", Verdict.BAD: "BAD"}


def doctor(as_json: JsonFlag = False) -> None:
    """Check this machine and say how to fix problems; exit 1 if something keeps EZTinker from working."""
    findings = list(all_checks())
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        rows = ((_SIGNS[f.verdict], f.subject, f.found, f.fix) for f in findings)
        print_table(("", "what", "found", "what to do"), rows)
    if any(finding.verdict is Verdict.BAD for finding in findings):
        raise typer.Exit(1)
