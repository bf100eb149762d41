"""Describe how other toolkits name the weights of their networks, and what their networks assume.

A layout recognises its weights by their names, infers the options of a method from their shapes, and maps the names.
Facts that weights do not show (steps of a recurrence, normalization, Fourier transform) come from the settings in the
file or given by the user; otherwise they are assumed, and the card says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mrirecon.errors import ModelMismatchError, UsageError
from mrirecon.models.importing.containers import Checkpoint

_MOST_PARTS = 1000
UNET = r"(?:down_sample_layers|up_transpose_conv|up_conv|conv)\."


@dataclass
class Conversion:
    """Hold what `mrirecon.models.importing.convert.import_model` needs to build and fill a model.

    Attributes:
        method, options: of the model.
        rules: patterns of full names of the toolkit, and the names of the model (`re.sub` syntax); the first that
            matches counts.
        unused: patterns of weights that the toolkit stores but does not use.
        facts: conventions for the card.

    """

    method: str
    options: dict[str, Any]
    rules: list[tuple[str, str]]
    unused: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)


class Source:
    """Give access to names, shapes and settings of a checkpoint.

    Attributes:
        weights: all tensors by name; those of a separate network for maps begin with ``sensitivity_model.``.
        assumed: settings that were looked up and not found, with the value used.

    """

    def __init__(self, checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
        # Lightning modules of fastMRI have the network as an attribute.
        prefix = re.compile(rf"^(?:varnet|unet)\.(?=cascades\.|sens_net\.|{UNET})")
        self.weights = {prefix.sub("", name, count=1): w for name, w in checkpoint.weights.items()}
        self.weights |= {f"sensitivity_model.{name}": w for name, w in checkpoint.sensitivity.items()}
        # Configurations of ATOMMIC and mridc for training have those of the model below this key.
        model = settings.get("model")
        self.settings = model if isinstance(model, Mapping) and "fft_centered" in model else settings
        self.where = str(checkpoint.path)
        self.assumed: dict[str, object] = {}

    def has(self, pattern: str) -> bool:
        """Return whether a name begins with a pattern."""
        expression = re.compile(pattern)
        return any(expression.match(name) for name in self.weights)

    def count(self, pattern: str) -> int:
        """Return the number of parts, whose indices are the group of a pattern at the start of names.

        Raises:
            ModelMismatchError: the indices do not run from 0, or are too many.

        """
        expression = re.compile(pattern)
        indices = {int(m[1]) for name in self.weights if (m := expression.match(name)) and len(m[1]) < 6}
        if indices != set(range(len(indices))) or not indices or len(indices) > _MOST_PARTS:
            why = f"the indices of {pattern} are {sorted(indices)[:10]}"
            raise ModelMismatchError("the weights are not complete", where=self.where, why=why, fix=_AGAIN)
        return len(indices)

    def size(self, name: str, axis: int, dimensions: int = 4) -> int:
        """Return the size of a tensor along an axis.

        Raises:
            ModelMismatchError: no such tensor, or one of other dimensions.

        """
        weight = self.weights.get(name)
        if weight is None or weight.ndim != dimensions or 0 in weight.shape:
            why = "it is missing" if weight is None else f"its shape is {tuple(weight.shape)}"
            raise ModelMismatchError(f"the weights do not have a usable {name}", where=self.where, why=why, fix=_AGAIN)
        return int(weight.shape[axis])

    def setting(self, key: str, default: Any, kind: type | tuple[type, ...] = object) -> Any:
        """Return a setting by its dotted name, or a default that is noted as assumed.

        Raises:
            UsageError: a value of another type.

        """
        value: Any = self.settings
        for part in key.split("."):
            if isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            elif isinstance(value, Mapping) and part in value:
                value = value[part]
            else:
                self.assumed[key] = default
                return default
        if value is not None and not isinstance(value, kind):
            raise UsageError(f"the setting {key} cannot be {value!r}", where=self.where, fix="check the settings")
        return value

    def refuse(self, key: str, value: object, fix: str = "no such model can be imported") -> UsageError:
        """Return the error for a setting that no model here has."""
        return UsageError(f"{key}={value} is not supported", where=self.where, fix=fix)

    def unet(self, prefix: str) -> tuple[int, int]:
        """Return channels and pools of a U-Net whose names begin with ``prefix``.

        Raises:
            ModelMismatchError: no such U-Net.

        """
        pools = self.count(rf"{re.escape(prefix)}down_sample_layers\.(\d+)\.")
        if pools > 8:
            raise ModelMismatchError("the U-Net has too many levels", where=self.where, why=f"{pools}", fix=_AGAIN)
        return self.size(f"{prefix}down_sample_layers.0.layers.0.weight", 0), pools


_AGAIN = "check the file and --as; the weights of this toolkit have other names or shapes"


@dataclass(frozen=True)
class Layout:
    """Describe the weights of one network of one toolkit.

    Attributes:
        name: what users write.
        toolkit: toolkit with version, whose code the import was compared with.
        marks: patterns that must all match the start of some name.
        convert: function that returns the conversion.

    """

    name: str
    toolkit: str
    marks: tuple[str, ...]
    convert: Callable[[Source], Conversion]

    def fits(self, source: Source) -> bool:
        """Return whether the weights have the names of this layout."""
        return all(source.has(mark) for mark in self.marks)


_BAND = "the calibration lines are those that fastMRI's code finds in the mask"


def _varnet_options(s: Source, cascades: str, network: str) -> dict[str, Any]:
    """Return the sizes of an E2EVN: the index of a cascade is the group of a pattern, its U-Net has a prefix."""
    channels, pools = s.unet(network)
    return {"cascades": s.count(cascades), "channels": channels, "pools": pools, "sensitivity": False}


def _fastmri_varnet(s: Source) -> Conversion:
    maps_channels, maps_pools = s.unet("sens_net.norm_unet.unet.")
    options = _varnet_options(s, r"cascades\.(\d+)\.", "cascades.0.model.unet.")
    options |= {"padding": 15, "own_maps_channels": maps_channels, "own_maps_pools": maps_pools}
    centre = s.setting("mask_center", True, bool)
    options |= {"own_maps": "fastmri" if centre else "fastmri-all"}
    facts = {
        "Fourier transform": "centred, unitary",
        "normalization": "none; the network is homogeneous, so that the scale has no effect",
        "maps": f"by the network of the model; {_BAND if centre else 'from all samples'}",
        "padding": "to multiples of 16, with zeros",
        "image": "root sum of squares; fastMRI crops it to the size in the header of the file afterwards",
    }
    return Conversion("e2evn", options, [*_VARNET, (r"sens_net\.(.*)", r"prepare.\1")], facts=facts)


_VARNET = [
    (r"cascades\.(\d+)\.dc_weight", r"engine.blocks.\1.part.consistency.weight"),
    (r"cascades\.(\d+)\.model\.(.*)", r"engine.blocks.\1.part.part.part.network.\2"),
]


def _fastmri_unet(s: Source) -> Conversion:
    channels, pools = s.unet("")
    crop = s.setting("crop", 0, int)
    options: dict[str, Any] = {"domain": "magnitude", "channels": channels, "pools": pools, "crop": crop}
    facts = {
        "Fourier transform": "centred, unitary",
        "normalization": "the root sum of squares to mean 0 and deviation 1, clamped to ±6",
        "crop": "option crop; fastMRI crops to the size in the header of the file, such as 320",
        "image": "magnitude, without data consistency",
    }
    return Conversion("unet", options, [(rf"({UNET}.*)", r"engine.blocks.0.network.\1")], facts=facts)


_RIM = [
    (r"(?:HEAD)(\d+)\.(layers\.\d+\.(?:convs|rnn)\..*|final_layer\..*)", r"engine.blocks.\1.network.\2"),
    (r"(?:HEAD)(\d+)\.dc_weight", r"engine.blocks.\1.dc_weight"),
]


def _rim_rules(head: str) -> list[tuple[str, str]]:
    return [(pattern.replace("HEAD", head), name) for pattern, name in _RIM]


def _rim_options(s: Source, head: str, cell_name: str = "rnn") -> dict[str, Any]:
    """Return the options of a CIRIM that the shapes of its weights show."""
    first = f"{head}0.layers.0."
    features = s.size(f"{first}convs.conv_layer.weight", 0)
    options: dict[str, Any] = {"cascades": s.count(rf"{re.escape(head)}(\d+)\."), "features": features}
    cell = "indrnn"
    if f"{first}{cell_name}.hh.weight" in s.weights:
        gates = s.size(f"{first}{cell_name}.hh.weight", 0) / features
        cell = {3.0: "gru", 2.0: "mgu"}.get(gates, "")
        if not cell:
            why = f"{gates:g} gates"
            raise ModelMismatchError("the recurrent unit is not known", where=s.where, why=why, fix=_AGAIN)
    return options | {"cell": cell, "recurrent_kernel": s.size(f"{first}{cell_name}.ih.weight", 3)}


def _check_rim(s: Source) -> None:
    """Refuse settings of a recurrent network that do not show in its weights and are not supported."""
    for key, wanted in (("conv_dilations", [1, 2, 1]), ("recurrent_dilations", [1, 1, 0]), ("depth", 2)):
        value = s.settings.get(key, wanted)
        if value != wanted:
            raise s.refuse(key, value)
    for key, wanted in (("dimensionality", 2), ("consecutive_slices", 1)):
        if s.settings.get(key) not in (None, wanted):
            raise s.refuse(key, s.settings[key])


def _mridc_cirim(s: Source) -> Conversion:
    head = "cirim." if s.has(r"cirim\.\d") else "cascades."
    options = _rim_options(s, head)
    _check_rim(s)
    explicit = f"{head}0.dc_weight" in s.weights
    keep = s.settings.get("keep_eta", not explicit)
    if bool(keep) == explicit and options["cascades"] > 1:
        raise s.refuse("keep_eta", keep)
    options |= {"compat": "mridc-0.2" if head == "cirim." else "mridc-0.0.1", "dc": "soft" if explicit else "none"}
    options["steps"] = s.setting("time_steps", 8, int)
    unused = [r"dc_weight"]
    if head == "cascades.":
        centred = s.setting("fft_type", "orthogonal", str) == "orthogonal"
        norm = "ortho"
        own = s.setting("use_sens_net", False, bool)
        normalize = s.setting("normalize_inputs", True, bool)
    else:
        centred, norm = _fourier(s)
        own = s.setting("use_sens_net", False, bool) if s.has("sens_net") else False
        train = "train_ds." if s.settings.get("train_ds") else ""
        normalize = s.setting(f"{train}normalize_inputs", True, bool)
        normalize = normalize and (s.settings.get(train[:-1]) or {}).get("max_norm", True)
    rules = _rim_rules(re.escape(head))
    if own:
        mask = s.settings.get("sens_mask_type") or "2D"
        own_maps = _network_maps(s, "sens_net.norm_unet.unet.", mask, "mridc")
        # With lines, mridc's maps are those of fastMRI.
        options |= own_maps if mask == "2D" else own_maps | {"own_maps": "fastmri"}
        rules.append((r"sens_net\.(.*)", r"prepare.\1"))
    else:
        unused.append(r"sens_net\..*")
    options |= {"scale": "max-parts" if normalize else _unit(norm), "fourier": "centred" if centred else "unshifted"}
    return Conversion("cirim", options, rules, unused, _facts(options, norm))


def _atommic_cirim(s: Source) -> Conversion:
    options = _rim_options(s, "reconstruction_module.") | {"compat": "atommic-1.0"}
    _check_rim(s)
    if s.has(r"reconstruction_module\.0\.dc_weight"):
        raise s.refuse("no_dc", False, "ATOMMIC's CIRIM with explicit data consistency returns k-space, not an image")
    options["steps"] = s.setting("time_steps", 8, int)
    return _atommic(s, "cirim", options, _rim_rules(r"reconstruction_module\."), starts=True)


def _atommic_varnet(s: Source) -> Conversion:
    options = _varnet_options(s, r"cascades\.(\d+)\.", "cascades.0.model.unet.")
    options["padding"] = s.setting("padding_size", 11, int)
    options["normalize"] = s.setting("normalize", True, bool)
    if s.setting("no_dc", False, bool):
        options |= {"dc": "none", "skip": False, "sign": 1}
    options["combine"] = _combination(s)
    unused = [r"cascades\.\d+\.dc_weight"] if options.get("dc") == "none" else []
    rules = _VARNET[1:] if unused else _VARNET
    return _atommic(s, "e2evn", options, rules, unused=unused)


def _atommic_cascadenet(s: Source) -> Conversion:
    if s.has(r"reconstruction_module\.0\.model\.conv\.\d+\.running_mean"):
        raise s.refuse("batchnorm", True)
    if s.setting("no_dc", False, bool):
        raise s.refuse("no_dc", True)
    options: dict[str, Any] = {
        "cascades": s.count(r"reconstruction_module\.(\d+)\."),
        "channels": s.size("reconstruction_module.0.model.conv.0.weight", 0),
        "layers": sum(
            w.ndim == 4 for n, w in s.weights.items() if re.match(r"reconstruction_module\.0\.model\.conv\.", n)
        ),
        "dc_order": "parallel",
        "shared_prelu": True,
        "combine": _combination(s),
    }
    block = r"reconstruction_module\.(\d+)\."
    rules = [
        (rf"{block}dc_weight", r"engine.blocks.\1.part.consistency.weight"),
        (rf"{block}model\.(conv\.\d+\.\w+)", r"engine.blocks.\1.part.part.part.network.\2"),
    ]
    return _atommic(s, "cascadenet", options, rules)


def _atommic_unet(s: Source) -> Conversion:
    channels, pools = s.unet("reconstruction_module.unet.")
    for key, wanted in (("in_channels", 2), ("out_channels", 2), ("norm_groups", 2)):
        if s.settings.get(key, wanted) != wanted:
            raise s.refuse(key, s.settings[key])
    options: dict[str, Any] = {"channels": channels, "pools": pools, "padding": s.setting("padding_size", 11, int)}
    options["normalize"] = s.setting("normalize", True, bool)
    rules = [(r"reconstruction_module\.(unet\..*)", r"engine.blocks.0.part.part.network.\1")]
    return _atommic(s, "unet", options, rules, starts=True)


def _atommic(
    s: Source,
    method: str,
    options: dict[str, Any],
    rules: list[tuple[str, str]],
    *,
    starts: bool = False,
    unused: list[str] | None = None,
) -> Conversion:
    """Add the conventions of ATOMMIC to a conversion: scale, Fourier transform, initial image, maps."""
    centred, norm = _fourier(s)
    data = "train_ds." if s.settings.get("train_ds") else ""
    kind = s.setting(f"{data}normalization_type", "max", str)
    if not (s.settings.get("train_ds") or {}).get("normalize_inputs", True):
        kind = None
    if kind not in ("max", "minmax", "None", "none", "", "fft", None):
        raise s.refuse("normalization_type", kind, "max, minmax and none can be imported")
    normalized = kind in ("max", "minmax")
    if (s.settings.get("train_ds") or {}).get("kspace_normalization"):
        raise s.refuse("kspace_normalization", True)
    scale = str(kind) if normalized else _unit(norm)
    options |= {"scale": scale, "fourier": "centred" if centred else "unshifted"}
    own = s.has("coil_sensitivity_maps_nn")
    if own:
        mask = s.setting("coil_sensitivity_maps_nn_mask_type", "2D", str)
        mask = mask if s.settings.get("coil_sensitivity_maps_nn_mask_center", True) else "all"
        if not s.settings.get("coil_sensitivity_maps_nn_normalize", True):
            raise s.refuse("coil_sensitivity_maps_nn_normalize", False)
        options |= _network_maps(s, "coil_sensitivity_maps_nn.norm_unet.unet.", mask)
        rules = [*rules, (r"coil_sensitivity_maps_nn\.(.*)", r"prepare.\1")]
    if starts:
        start = "rss" if _combination(s) == "rss" else "zero-filled"
        options["start"] = f"{start}-{scale}" if normalized and not own else start
    return Conversion(method, options, rules, unused or [], _facts(options, norm))


def _combination(s: Source) -> str:
    kind = str(s.setting("coil_combination_method", "SENSE", str)).lower()
    if kind not in ("sense", "rss"):
        raise s.refuse("coil_combination_method", kind)
    return kind


def _network_maps(s: Source, prefix: str, mask: str, toolkit: str = "atommic") -> dict[str, Any]:
    channels, pools = s.unet(prefix)
    if mask not in ("1D", "2D", "all"):
        raise s.refuse("the type of the mask for coil maps", mask)
    return {"own_maps": f"{toolkit}-{mask.lower()}", "own_maps_channels": channels, "own_maps_pools": pools}


def _fourier(s: Source) -> tuple[bool, str]:
    """Return whether the transform is centred, and its normalization."""
    centred = bool(s.setting("fft_centered", True, bool))
    norm = s.setting("fft_normalization", "ortho", str)
    norm = "backward" if norm in (None, "none", "None", "") else str(norm)
    if norm not in ("ortho", "backward", "forward"):
        raise s.refuse("fft_normalization", norm)
    return centred, norm


def _unit(norm: str) -> str:
    return "none" if norm == "ortho" else f"none-{norm}"


def _facts(options: Mapping[str, Any], norm: str) -> dict[str, str]:
    shift = "centred" if options["fourier"] == "centred" else "without shifts, of k-space with its centre in the middle"
    scale = str(options["scale"])
    rules = {
        "max": "coil images, and given maps, divided by their largest magnitude",
        "max-parts": "coil images, and given maps, divided by their largest real or imaginary part",
        "minmax": "the smallest magnitude subtracted from coil images and given maps, then divided by the range",
        "kspace-percentile": "k-space divided by the 99th percentile of its magnitude",
        "kspace-max": "k-space divided by its largest magnitude",
    }
    own = options.get("own_maps", "none")
    maps = "given, such as ESPIRiT's" if own == "none" else f"estimated by the model ({own})"
    normalization = rules.get(scale.removesuffix("-backward"), "none: the unit of the training data")
    return {"Fourier transform": f"{shift}, {norm}", "normalization": normalization, "maps": maps}


def _direct(s: Source, method: str, options: dict[str, Any], rules: list[tuple[str, str]]) -> Conversion:
    """Add the conventions of DIRECT to a conversion: scale, Fourier transform, maps."""
    operator = str(s.setting("physics.backward_operator", "ifft2", str)).replace(" ", "")
    centred, unitary = "centered=False" not in operator, "normalized=False" not in operator
    base = "training.datasets.0.transforms."
    normalization = f"{base}normalization."
    if _lookup(s.settings, base) and not _lookup(s.settings, normalization):  # the older, flat form
        normalization = base
    key = s.setting(f"{normalization}scaling_key", "masked_kspace", (str, type(None)))
    percentile = s.setting(f"{normalization}scale_percentile", 0.99, (float, int, type(None)))
    if key not in ("masked_kspace", None) or percentile not in (0.99, None, 0):
        raise s.refuse("scaling_key, scale_percentile", f"{key}, {percentile}")
    backward = "" if unitary else "-backward"
    scale = f"kspace-{'percentile' if percentile else 'max'}{backward}" if key else f"none{backward}"
    options |= {"scale": scale, "fourier": "centred" if centred else "unshifted", "own_maps": "direct-calibration"}
    if s.has(r"sensitivity_model\."):
        prefix = "sensitivity_model.unet2d." if s.has(r"sensitivity_model\.unet2d\.") else "sensitivity_model."
        channels, pools = s.unet(prefix)
        own = "direct-norm" if prefix.endswith("unet2d.") else "direct"
        options |= {"own_maps": own, "own_maps_channels": channels, "own_maps_pools": pools}
        rules = [*rules, (rf"{re.escape(prefix)}({UNET}.*)", r"prepare.norm_unet.unet.\1")]
    return Conversion(method, options, rules, facts=_facts(options, "ortho" if unitary else "backward"))


def _lookup(settings: Mapping[str, Any], key: str) -> Any:
    value: Any = settings
    for part in key.strip(".").split("."):
        value = value[0] if isinstance(value, list) and value and part == "0" else value
        value = value.get(part) if isinstance(value, Mapping) and part != "0" else value
    return value


def _direct_varnet(s: Source) -> Conversion:
    options = _varnet_options(s, r"layers_list\.(\d+)\.", "layers_list.0.regularizer_model.")
    options |= {"padding": 0, "normalize": False, "sign": 1}
    rules = [
        (r"layers_list\.(\d+)\.learning_rate", r"engine.blocks.\1.part.consistency.weight"),
        (r"layers_list\.(\d+)\.regularizer_model\.(.*)", r"engine.blocks.\1.part.part.part.network.unet.\2"),
    ]
    return _direct(s, "e2evn", options, rules)


def _direct_cirim(s: Source) -> Conversion:
    options = _rim_options(s, "block_list.", "recurrent") | {"compat": "direct-2.1"}
    options["steps"] = s.setting("model.time_steps", 8, int)
    if s.has(r"block_list\.0\.dc_weight"):
        raise s.refuse("no_parameter_sharing", False)
    rules = [
        (r"block_list\.(\d+)\.(layers\.\d+\.convs\..*|final_layer\..*)", r"engine.blocks.\1.network.\2"),
        (r"block_list\.(\d+)\.(layers\.\d+)\.recurrent\.(.*)", r"engine.blocks.\1.network.\2.rnn.\3"),
    ]
    conversion = _direct(s, "cirim", options, rules)
    conversion.unused.append("dc_weight")
    return conversion


def _direct_rim(s: Source) -> Conversion:
    for key, pattern in (
        ("learned_initializer", r"initializer\."),
        ("normalized", r"cell_list\.\d+\.convgru\."),
        ("instance_norm", r"cell_list\.\d+\.reset_gates\.\d+\.1\."),
    ):
        if s.has(pattern):
            raise s.refuse(key, True)
    cells = s.count(r"cell_list\.(\d+)\.")
    shared = not s.setting("model.no_parameter_sharing", cells > 1, bool)
    options: dict[str, Any] = {
        "features": s.size("cell_list.0.conv_blocks.0.1.weight", 0),
        "layers": s.count(r"cell_list\.0\.reset_gates\.(\d+)\."),
        "share_steps": shared,
        "steps": s.setting("model.length", 8, int) if shared else cells,
        "skip": s.setting("model.skip_connections", True, bool),
    }
    first = s.setting("model.image_initialization", "sense", str)
    if first not in ("sense", "zero_filled"):
        raise s.refuse("image_initialization", first)
    for key, wanted in (("steps", 1), ("scale_loglikelihood", None), ("dense_connect", False)):
        value = s.settings.get("model", {}).get(key, wanted)
        if value not in (wanted, False if wanted is None else wanted):
            raise s.refuse(key, value)
    options["first_image"] = "sum" if first == "zero_filled" else "sense"
    rules = [
        (r"cell_list\.(\d+)\.conv_blocks\.(\d+)\.1\.(weight|bias)", r"engine.blocks.\1.network.conv_blocks.\2.\3"),
        (r"cell_list\.(\d+)\.(\w+_gates)\.(\d+)\.0\.(weight|bias)", r"engine.blocks.\1.network.\2.\3.\4"),
    ]
    return _direct(s, "direct-rim", options, rules)


_CELL = r"\d+\.layers\.0\.convs\.conv_layer\."
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("fastmri-varnet", "fastMRI 0.3", (r"cascades\.0\.model\.unet\.", r"sens_net\."), _fastmri_varnet),
        Layout(
            "fastmri-unet",
            "fastMRI 0.3",
            (r"down_sample_layers\.0\.", r"up_conv\."),
            _fastmri_unet,
        ),
        Layout("atommic-cirim", "ATOMMIC 1.0.1", (rf"reconstruction_module\.{_CELL}",), _atommic_cirim),
        Layout("atommic-rim", "ATOMMIC 1.0.1", (rf"reconstruction_module\.{_CELL}",), _atommic_cirim),
        Layout("atommic-varnet", "ATOMMIC 1.0.1", (r"cascades\.0\.model\.unet\.",), _atommic_varnet),
        Layout(
            "atommic-cascadenet", "ATOMMIC 1.0.1", (r"reconstruction_module\.0\.model\.conv\.",), _atommic_cascadenet
        ),
        Layout("atommic-unet", "ATOMMIC 1.0.1", (r"reconstruction_module\.unet\.",), _atommic_unet),
        Layout("mridc-cirim", "mridc 0.0.1 and 0.2.0", (rf"(?:cirim|cascades)\.{_CELL}",), _mridc_cirim),
        Layout("direct-varnet", "DIRECT 2.1", (r"layers_list\.0\.regularizer_model\.",), _direct_varnet),
        Layout("direct-cirim", "DIRECT 2.1", (rf"block_list\.{_CELL}",), _direct_cirim),
        Layout("direct-rim", "DIRECT 2.1", (r"cell_list\.0\.",), _direct_rim),
    )
}


def recognise(source: Source) -> Layout:
    """Return the first layout that fits.

    Raises:
        UsageError: none fits.

    """
    for layout in LAYOUTS.values():
        if layout.fits(source):
            return layout
    raise UsageError(
        "the network in the checkpoint is not known",
        where=source.where,
        why=f"its weights are named {', '.join(list(source.weights)[:3])} ...",
        fix=f"mrirecon imports {', '.join(LAYOUTS)}",
    )


def rename(conversion: Conversion, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Return the weights by the model's names, the unused names, and the names that no rule knows."""
    unused = [re.compile(p) for p in (*conversion.unused, r"(?:.*\.)?(?:\w*loss\w*|loss_fn)\.w")]
    rules = [(re.compile(pattern), name) for pattern, name in conversion.rules]
    renamed: dict[str, Tensor] = {}
    left_out, unknown = [], []
    for name, weight in weights.items():
        if any(pattern.fullmatch(name) for pattern in unused):
            left_out.append(name)
            continue
        new = next((p.sub(template, name) for p, template in rules if p.fullmatch(name)), None)
        if new is None:
            unknown.append(name)
        else:
            renamed[new] = weight
    return renamed, left_out, unknown
