"""Run studies: compare methods × data × masks under equal conditions, with tables and a report; resumable."""

from mrirecon.evaluation.study.plan import Plan, load_study
from mrirecon.evaluation.study.run import dry_run, run_study, train_method
from mrirecon.evaluation.study.settings import StudySettings

__all__ = ["Plan", "StudySettings", "dry_run", "load_study", "run_study", "train_method"]
