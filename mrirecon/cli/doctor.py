"""The verb that looks at the machine."""

from __future__ import annotations

from dataclasses import asdict

import typer

from mrirecon.cli.console import emit, say
from mrirecon.cli.inspect import AsJson


def doctor(as_json: AsJson = False) -> None:
    """Look at this machine: versions, disks, cores, locks, BART, GPU, extras. Exit code 1 where something is bad."""
    from mrirecon.tools.doctor import examine

    found = examine()
    bad = sum(finding.verdict == "bad" for finding in found)
    if as_json:
        emit({"ok": not bad, "findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            typer.echo(f"{finding.verdict:4s}  {finding.name:24s}  {finding.told}")
            if finding.fix:
                typer.echo(f"{'':30s}  -> {finding.fix}")
    say(f"{bad} of {len(found)} bad" if bad else "nothing is bad; `mrirecon selftest` checks the numerics")
    if bad:
        raise typer.Exit(1)
