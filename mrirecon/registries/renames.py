"""Map old names, which are now refused, to their new names.

The registry of methods uses this module for options, `mrirecon.training.config` for keys of YAML files and ``--set``,
and the command line for flags. `scripts/convert_old_names.py` converts old files.
"""

from __future__ import annotations

from fnmatch import fnmatch

OPTIONS = {
    "weigh": "blend",
    "plus": "sign",
    "share": "share_weights",
    "carry": "carry_hidden",
    "order": "dc_order",
}
# Old values by method and option, with the option that now has them.
MOVED_OPTIONS = {("lpdnet", "start"): ("dual_start", ("data", "zero"))}
OPTION_VALUES: dict[str, dict[object, object]] = {  # values by the new name of the option
    "blend": {"held-out": "cross_validated"},
    "sign": {False: -1, True: 1},
    "dc_order": {"network first": "sequential", "together": "parallel"},
}
KEYS = {  # keys of a training configuration, then of a study
    "data.person": "data.subject",
    "data.epoch": "data.items_per_epoch",
    "data.buffer.uses": "data.buffer.draws_per_sample",
    "data.buffer.samples": "data.buffer.capacity",
    "data.buffer.together": "data.buffer.batches_per_chunk",
    "data.buffer.where": "data.buffer.location",
    "data.simulation.correlation": "data.simulation.noise_correlation",
    "data.simulation.distance": "data.simulation.coil_distance",
    "data.simulation.field": "data.simulation.field_strength",
    "data.simulation.echo": "data.simulation.echo_time",
    "data.simulation.spin_echo": "data.simulation.spin_echo_share",
    "data.simulation.layers": "data.simulation.marrow_fat_share",
    "data.simulation.detail": "data.simulation.fine_phase",
    "data.simulation.contrast": "data.simulation.gamma",
    "data.simulation.bias": "data.simulation.bias_field",
    "loss.on": "loss.compare",
    "loss.split": "loss.held_out_share",
    "train.initial": "train.initial_weights",
    "train.final": "train.final_lr_share",
    "train.decay": "train.lr_decay",
    "train.decay_every": "train.lr_decay_every",
    "train.clip": "train.gradient_clip",
    "train.panels": "train.validation_images",
}
STUDY_KEYS = {"person": "subject", "methods.*.set": "methods.*.overrides"}
VALUES: dict[str, dict[object, object]] = {
    "loss.region": {"field": "field_of_view"}
}  # values by the new name of the key
FLAGS = {  # flags by command and old name
    "compare --person": "--subject",
    "report --whole": "--full-images",
    "trust --share": "--held-out-share",
}
CARD_KEYS = {"people": "subjects", "person": "subject"}  # keys of a model's card


def new_option(method: str, name: str, value: object) -> tuple[str, object]:
    """Return the new name and value of a method's option, unchanged if they were not renamed."""
    moved, values = MOVED_OPTIONS.get((method, name), (name, ()))
    new = moved if value in values else OPTIONS.get(name, name)
    choices = OPTION_VALUES.get(new, {}) if isinstance(value, str | bool) else {}
    return new, choices.get(value, value)


def new_key(key: str) -> str | None:
    """Return the new name of a configuration key ``section.key``, or None if it was not renamed."""
    new_name = KEYS.get(key) or next((new for old, new in STUDY_KEYS.items() if fnmatch(key, old)), None)
    return None if new_name is None else new_name.rpartition(".")[2]


def new_value(key: str, value: object) -> object | None:
    """Return the new form of a value of ``section.key``, or None if it was not renamed."""
    choices = VALUES.get(key, {})
    same_type = {old: new for old, new in choices.items() if type(old) is type(value)}
    return same_type.get(value) if isinstance(value, str | bool) else None


def new_flag(command: str, flag: str) -> str | None:
    """Return the new name of a flag of a command, or None if it was not renamed."""
    return FLAGS.get(f"{command} {flag}")
