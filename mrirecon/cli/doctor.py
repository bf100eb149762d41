"""The verb that looks at the machine."""

from __future__ import annotations

from dataclasses import asdict

import typer

from mrirecon.cli.console import print_json, print_line
from mrirecon.cli.inspect import AsJson


def doctor(as_json: AsJson = False) -> None:
    """Look at this machine: packages, cores, memory, disks, HDF5, GPU, a self-test. Exit code 1 for what is bad."""
    from mrirecon.tools.doctor import examine

    found = examine()
    bad = sum(finding.verdict == "bad" for finding in found)
    if as_json:
        print_json({"ok": not bad, "findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            typer.echo(f"{finding.verdict:4s}  {finding.name:24s}  {finding.message}")
            if finding.fix:
                typer.echo(f"{'':30s}  -> {finding.fix}")
    print_line(f"{bad} of {len(found)} bad" if bad else "nothing is bad")
    if bad:
        raise typer.Exit(1)
