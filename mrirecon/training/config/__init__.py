"""Training configurations: strict YAML, inherited, overridden, checked, and shown with the origin of each value."""

from mrirecon.training.config.load import Config, load_as, load_config, origin_of, saved_config
from mrirecon.training.config.settings import Settings, Train
from mrirecon.training.config.show import differences, render, schema, template

__all__ = [
    "Config",
    "Settings",
    "Train",
    "differences",
    "load_as",
    "load_config",
    "origin_of",
    "render",
    "saved_config",
    "schema",
    "template",
]
