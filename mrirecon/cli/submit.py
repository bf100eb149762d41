"""Define the commands `submit reconstruct`, `submit train`, `submit study`, `submit status` and `submit gather`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

from mrirecon.cli import options as opt
from mrirecon.cli import reconstruct as reconstruction
from mrirecon.cli import study as studies
from mrirecon.cli import training
from mrirecon.cli.console import fail, print_json, print_line, progress, table
from mrirecon.errors import PartialFailure, UsageError
from mrirecon.registries import plugins

if TYPE_CHECKING:
    from mrirecon.tools.submission import Resources, Submission, TaskState

app = typer.Typer(
    name="submit", help="Run commands as jobs of a cluster (Slurm), or of this machine.", no_args_is_help=True
)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}  # options of the submitted command

Cluster = Annotated[str, opt.choice("tools.submission.record:Cluster", help="local: processes of this machine.")]
Cpus = Annotated[int | None, typer.Option(min=1, help="Cores of each process.")]
Gpus = Annotated[int, typer.Option("--gpus-per-node", "--gpus", min=0, help="GPUs of a task on each node.")]
Memory = Annotated[float | None, typer.Option(help="Memory of a task on each node in GB.")]
Nodes = Annotated[int, typer.Option(min=1, help="Nodes of a task.")]
Partition = Annotated[str | None, typer.Option(help="Partition of Slurm.")]
Requeues = Annotated[int, typer.Option(min=0, help="How often a task may reach its time limit.")]
Sbatch = Annotated[list[str] | None, typer.Option(help="Option of sbatch: key=value, such as account=mri; repeatable.")]
Time = Annotated[
    str, typer.Option(help="Time limit of a job: minutes, HH:MM:SS or D-HH:MM:SS; a task may take several.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for all tasks, with a progress bar over the tasks.")]
Warn = Annotated[int, typer.Option(min=1, help="Seconds before the time limit at which a task saves its state.")]


def _resources(given: dict[str, Any], processes: int = 1) -> Resources:
    """Return the resources from the arguments of a command, with the number of processes on each node."""
    from mrirecon.tools.submission import Resources, minutes_of
    from mrirecon.tools.submission.record import sbatch_options

    unchanged = ("cluster", "partition", "gpus", "cpus", "memory", "warning", "requeues")
    return Resources(
        minutes=minutes_of(given["time"]),
        nodes=given.get("nodes", 1),
        processes=processes,
        sbatch=sbatch_options(given["sbatch"] or []),
        **{name: given[name] for name in unchanged},
    )


class _PassedOn:
    """Check and hold the options that are passed on to a command.

    Args:
        function: function of the command.
        arguments: its arguments.

    Raises:
        click.UsageError: an option or argument that the command does not have, or a wrong value.

    """

    def __init__(self, function: Callable[..., Any], arguments: Sequence[str]) -> None:
        application = typer.Typer()
        application.command()(function)
        command = get_command(application)
        command.make_context(f"mrirecon submit {function.__name__}", list(arguments))  # checks names and values
        parser = command.make_parser(command.context_class(command))
        self.given: dict[str, Any] = parser.parse_args(list(arguments))[0]
        self._options = {p.name: p for p in command.params if p.opts[0].startswith("-")}

    def take(self, name: str, default: Any = None) -> Any:
        """Return the value of an option or argument, and do not pass it on."""
        return self.given.pop(name, default)

    def refuse(self, **fixes: str) -> None:
        """Refuse options that make no sense in a job.

        Args:
            fixes: for each option, what to do instead.

        Raises:
            UsageError: one of them was given.

        """
        for name, fix in fixes.items():
            if name in self.given:
                raise UsageError(f"{self._options[name].opts[0]} cannot be submitted", fix=fix)

    def options(self) -> list[str]:
        """Return the options as arguments."""
        tokens: list[str] = []
        for name, value in self.given.items():
            flags = self._options[name]
            if isinstance(value, bool):
                tokens.append(flags.opts[-1] if value else flags.secondary_opts[-1])
            else:
                flag = max(flags.opts, key=len)
                tokens += [f"{flag}={v}" for v in (value if isinstance(value, list) else [value])]
        return tokens


@app.command(context_settings=PASS_ON)
def reconstruct(
    context: typer.Context,
    tasks: Annotated[int, typer.Option(min=1, help="Number of tasks, which share the files.")] = 8,
    cluster: Cluster = "slurm",
    partition: Partition = None,
    time: Time = "4:00:00",
    gpus: Gpus = 0,
    cpus: Cpus = None,
    memory: Memory = None,
    warning: Warn = 90,
    requeues: Requeues = 100,
    sbatch: Sbatch = None,
    worst: Annotated[int, typer.Option(min=0, help="Number of the worst images in the report.")] = 12,
    sample: Annotated[int, typer.Option(min=0, help="Number of random images in the report.")] = 12,
    wait: Wait = False,
    as_json: opt.AsJson = False,
) -> None:
    """Reconstruct files in tasks: FILES -o OUT and all options of `mrirecon reconstruct`; then gather table and report.

    The files are listed once, and OUT/jobs holds the list, log and state of each task. Above 4000 files, OUT has
    subfolders by the hash of the names.
    """
    from mrirecon.reconstruction import batch, cohort
    from mrirecon.reconstruction.plan import Request
    from mrirecon.tools.submission import Submission, TaskEntry

    resources = _resources(locals())
    passed = _PassedOn(reconstruction.reconstruct, context.args)
    fix = "omit it: the tasks share the files"
    passed.refuse(shard=fix, listed=fix, dry_run="run `mrirecon reconstruct --dry-run`", bids="give -o OUT")
    output, files = Path(passed.take("output", ".")).absolute(), [Path(f) for f in passed.take("files", ())]
    before = _refuse_running(output)
    request = Request(method=passed.given.get("method", "auto"), format=passed.given.get("format"))
    if not files:
        raise UsageError("no files are given", fix="name files, folders or patterns")
    sources = batch.expand(files, output, request)
    subfolders = int(passed.take("subfolders", 0)) or _subfolders_of(before) or cohort.subfolders_for(len(sources))
    parts = cohort.divide(sources, output, opt.subfolders(subfolders), min(tasks, len(sources)))
    reference = passed.given.get("reference")
    common = ["reconstruct", *passed.options(), f"--output={output}", f"--subfolders={subfolders}"]
    entries, folder = list[TaskEntry](), Submission(output, resources, []).folder
    for number, part in enumerate(parts, start=1):
        name = f"{number}-of-{len(parts)}"
        cohort.write_list(folder / f"{name}.txt", part)
        entries.append(TaskEntry(name, _command(*common, f"--list={folder / name}.txt")))
    final = ["submit", "gather", str(output), "--wait", f"--worst={worst}", f"--sample={sample}"]
    if reference is not None and Path(reference).is_dir():
        final.append(f"--reference={reference}")
    _submit(Submission(output, resources, entries, TaskEntry("gather", _command(*final))), wait, as_json)


@app.command(context_settings=PASS_ON)
def train(
    context: typer.Context,
    nodes: Nodes = 1,
    processes: Annotated[
        int | None, typer.Option("--processes-per-node", min=1, help="By default one for each GPU.")
    ] = None,
    cluster: Cluster = "slurm",
    partition: Partition = None,
    time: Time = "4:00:00",
    gpus: Gpus = 0,
    cpus: Cpus = None,
    memory: Memory = None,
    warning: Warn = 90,
    requeues: Requeues = 100,
    sbatch: Sbatch = None,
    wait: Wait = False,
    as_json: opt.AsJson = False,
) -> None:
    """Train in a job: CONFIG -o OUT and all options of `mrirecon train`; at the time limit it continues in the next."""
    from mrirecon.tools.submission import Submission, TaskEntry

    resources = _resources(locals(), processes or gpus or 1)
    passed = _PassedOn(training.train, context.args)
    passed.refuse(dry_run="run `mrirecon train --dry-run`")
    config = passed.take("config")
    output = Path(passed.take("output", Path("runs") / Path(config).name.split(".")[0])).absolute()
    _refuse_running(output)
    command = _command("train", config, *passed.options(), f"--output={output}")
    _submit(Submission(output, resources, [TaskEntry("train", command)]), wait, as_json)


@app.command(context_settings=PASS_ON)
def study(
    context: typer.Context,
    cluster: Cluster = "slurm",
    partition: Partition = None,
    time: Time = "4:00:00",
    gpus: Gpus = 0,
    cpus: Cpus = None,
    memory: Memory = None,
    warning: Warn = 90,
    requeues: Requeues = 100,
    sbatch: Sbatch = None,
    wait: Wait = False,
    as_json: opt.AsJson = False,
) -> None:
    """Run a study: CONFIG -o OUT and all options of `mrirecon study`; each method is trained in a task of its own."""
    from mrirecon.evaluation.study import load_study
    from mrirecon.tools.submission import Submission, TaskEntry

    resources = _resources(locals())
    passed = _PassedOn(studies.study, context.args)
    passed.refuse(dry_run="run `mrirecon study --dry-run`", only_train="omit it: each method has a task")
    config = passed.take("config")
    output = Path(passed.take("output", Path("studies") / Path(config).name.split(".")[0])).absolute()
    _refuse_running(output)
    common = _command("study", config, *passed.options(), f"--output={output}")
    trained = load_study(config, passed.given.get("sets", [])).trained
    entries = [TaskEntry(f"train-{method.name}", [*common, f"--only-train={method.name}"]) for method in trained]
    study_task = TaskEntry("study", common)
    tasks, final = (entries, study_task) if entries else ([study_task], None)
    submission = Submission(output, resources, tasks, final)
    _submit(submission, wait, as_json)


@app.command()
def status(
    output: Annotated[Path, typer.Argument(help="Output folder of `mrirecon submit`.")],
    resubmit: Annotated[
        bool, typer.Option("--resubmit-failed", help="Submit failed and lost tasks again; finished files are kept.")
    ] = False,
    wait: Wait = False,
    as_json: opt.AsJson = False,
) -> None:
    """Show the state of each task: pending, running, done, failed, or lost (killed, cancelled, or its node failed)."""
    from mrirecon.tools.submission import Submission, resubmit_failed

    submission = Submission.load(output)
    if resubmit:
        from mrirecon.cli import run

        submission, names = resubmit_failed(submission, run)
        print_line(f"submitted again: {', '.join(names) or 'nothing'}")
    _show(submission, wait, as_json)


@app.command()
def gather(
    output: Annotated[Path, typer.Argument(help="Output folder of `mrirecon submit reconstruct`.")],
    worst: Annotated[int, typer.Option(min=0, help="Number of the worst images in the report.")] = 12,
    sample: Annotated[int, typer.Option(min=0, help="Number of random images in the report.")] = 12,
    reference: Annotated[Path | None, typer.Option(help="Folder of references.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for all tasks first.")] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Merge the tables and failures of all tasks, and write a report of the worst and of random images."""
    from mrirecon.tools.submission import Submission
    from mrirecon.tools.submission import wait as wait_for
    from mrirecon.tools.submission.gather import gather as run

    submission = Submission.load(output)
    if wait:
        wait_for(submission)
    summary = run(submission, worst=worst, sample=sample, reference=reference)
    for note in summary.notes:
        print_line(note)
    if as_json:
        print_json(vars(summary))
    else:
        for path in (summary.table, summary.failures, summary.report):
            if path is not None:
                typer.echo(path)
    unfinished = {status: number for status, number in summary.counts.items() if number and status != "done"}
    if unfinished:
        what = f"of {summary.files} files: " + ", ".join(f"{number} {status}" for status, number in unfinished.items())
        fix = "repair the files, and run `mrirecon submit status OUT --resubmit-failed`"
        fail(PartialFailure(what, where=str(summary.failures or summary.table), fix=fix), as_json)


def _command(*arguments: str) -> list[str]:
    """Return a command line with the plug-in files of this one."""
    return [*(f"--plugin={path}" for path in plugins.files()), *arguments]


def _refuse_running(output: Path) -> Submission | None:
    """Return the earlier submission of a folder, or None.

    Raises:
        BusyError: its tasks still wait or run.

    """
    from mrirecon.tools.submission import Submission, states
    from mrirecon.tools.submission.record import FOLDER, NAME
    from mrirecon.tools.submission.status import refuse_active

    if not (output / FOLDER / NAME).is_file():
        return None
    before = Submission.load(output)
    refuse_active(before, states(before))
    return before


def _subfolders_of(submission: Submission | None) -> int:
    """Return the number of subfolders of an earlier submission, because images must not move; without one, 0."""
    arguments = submission.tasks[0].arguments if submission else []
    return next((int(a.partition("=")[2]) for a in arguments if a.startswith("--subfolders=")), 0)


def _submit(submission: Submission, wait: bool, as_json: bool) -> None:
    """Submit tasks, and print their states; see `_show`."""
    from mrirecon.cli import run
    from mrirecon.tools.submission import submit

    submitted = submit(submission, run)
    print_line(f"submitted {len(submitted.tasks)} tasks; logs and states: {submitted.folder}")
    _show(submitted, wait, as_json)


def _show(submission: Submission, wait: bool, as_json: bool) -> None:
    """Print the states of tasks, after waiting for them if requested.

    Raises:
        PartialFailure: tasks failed or were lost.

    """
    from mrirecon.tools.submission import states
    from mrirecon.tools.submission import wait as wait_for

    if wait:
        with progress("tasks", "task") as callback:
            shown = wait_for(submission, None, callback)
        if submission.final is not None:
            shown += wait_for(submission, [submission.final])
    else:
        shown = states(submission)
        shown += [] if submission.final is None else states(submission, [submission.final])
    if as_json:
        print_json([_plain(submission, task_state) for task_state in shown])
    else:
        rows = [list(_plain(submission, task_state).values()) for task_state in shown]
        typer.echo(table(("task", "state", "job", "reason", "node", "minutes", "MB", "log"), rows))
    # The final task fails with this code if files failed, which their own tasks report too.
    reported = f"exit code {PartialFailure.exit_code}"
    unsuccessful = [
        s for s in shown if s.state in ("failed", "lost") and not (s.task == submission.final and s.reason == reported)
    ]
    if unsuccessful:
        what = f"{len(unsuccessful)} of {len(shown)} tasks failed or were lost"
        why = "; ".join(f"{s.task.name}: {s.reason}" for s in unsuccessful[:4])
        fix = f"read their logs, and run `mrirecon submit status {submission.output} --resubmit-failed`"
        fail(PartialFailure(what, where=str(submission.folder), why=why, fix=fix), as_json)


def _plain(submission: Submission, state: TaskState) -> dict[str, Any]:
    """Return the state of a task as plain data, in the order of the columns."""
    record, task = state.record, state.task
    minutes = (record["written"] - record["started"]) / 60 if state.state in ("done", "failed") else None
    return {
        "task": task.name,
        "state": state.state,
        "job": task.job,
        "reason": state.reason,
        "node": record.get("node") or record.get("host"),
        "minutes": minutes,
        "memory (MB)": record.get("memory (MB)"),
        "log": str(submission.log(task)),
    }
