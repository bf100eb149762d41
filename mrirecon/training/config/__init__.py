"""Read training configurations: strict YAML, bases, overrides, checks, and the origin of each value."""

from mrirecon.training.config.load import Config, load_as, load_config, origin_of
from mrirecon.training.config.settings import LossSettings, Settings, Train
from mrirecon.training.config.show import differences, render, schema, template

__all__ = [
    "Config",
    "LossSettings",
    "Settings",
    "Train",
    "differences",
    "load_as",
    "load_config",
    "origin_of",
    "render",
    "schema",
    "template",
]
