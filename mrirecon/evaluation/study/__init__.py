"""Studies: methods × data × masks under the same conditions, resumable, with tables and a report."""

from mrirecon.evaluation.study.plan import Plan, load_study
from mrirecon.evaluation.study.run import dry_run, run_study
from mrirecon.evaluation.study.settings import StudySettings

__all__ = ["Plan", "StudySettings", "dry_run", "load_study", "run_study"]
