"""Test that errors in configurations give cause, location and correction (M10, M11)."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from mrirecon.data.sampling import draw_mask
from mrirecon.errors import InputError, MriReconError, UsageError
from mrirecon.masks import make_mask
from mrirecon.methods.registry import find_method, methods
from mrirecon.training.config import differences, load_config, render, schema, template
from mrirecon.training.config.strict_yaml import parse_yaml, scalar
from mrirecon.training.objective import step_weights

CONFIGS = Path(__file__).parents[2] / "configs"
OWN = sorted(CONFIGS.glob("*.yaml"))
PAPERS = sorted((CONFIGS / "papers").glob("*.yaml"))
ONE_MASK = "method: cirim\ndata:\n  masks:\n    - "
GOOD = "method: cirim\ntrain:\n  steps: 10\n"


@pytest.fixture
def write(tmp_path):
    def put(text, name="run.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return put


def test_every_method_has_a_configuration():
    assert {p.stem for p in OWN} == {*methods(), "radial"}
    for path in OWN:
        assert load_config(path).settings.method == ("rim" if path.stem == "radial" else path.stem)


def leaves(values, at=()):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, (*at, key))
        else:
            yield (*at, key)


@pytest.mark.parametrize("path", OWN + PAPERS, ids=lambda p: p.stem)
def test_configurations_are_short_and_override_only(path, write):
    text = path.read_text()
    assert len(text.splitlines()) <= 30
    resolved = load_config(path).plain()
    values = yaml.safe_load(text)
    bases = [values["base"]] if isinstance(values["base"], str) else values["base"]
    values["base"] = [str((path.parent / b).resolve()) for b in bases]
    for leaf in leaves(values):
        if leaf[0] in ("base", "method") or path.parent.name == "papers":  # these contain all settings of the papers
            continue
        less = copy.deepcopy(values)
        part = less
        for key in leaf[:-1]:
            part = part[key]
        del part[leaf[-1]]
        try:
            same = load_config(write(yaml.safe_dump(less))).plain() == resolved
        except UsageError:
            same = False
        assert not same, f"{'.'.join(leaf)} would hold without being written"


def test_published_sizes():
    from mrirecon.models.costs import parameters

    wanted = {
        "cirim": 264_960,
        "irim": 52_992,
        "rim": 94_080,
        "rim-mgu": 77_568,
        "e2evn": 29_936_966,
        "unet": 1_860_866,
    }
    wanted |= {"lpdnet": 236_532, "e2evn-cirim": 19_634_712}
    for name, count in wanted.items():
        settings = load_config(CONFIGS / "papers" / f"{name}.yaml").settings
        assert parameters(settings.method, settings.model) == count, name


@pytest.mark.parametrize("name", ["e2evn", "e2evn-cirim", "cascadenet", "kikinet", "lpdnet"])
def test_cascades_of_the_papers_are_trained_on_their_output_only(name):
    settings = load_config(CONFIGS / "papers" / f"{name}.yaml").settings
    count = settings.model["cascades"]
    assert step_weights(settings.loss, [1] * count) == [0.0] * (count - 1) + [1.0]


@pytest.mark.parametrize("name", ["cirim", "rim", "cascadenet"])
def test_masks_of_the_papers_are_those_of_mridc(name):
    for family in load_config(CONFIGS / "papers" / f"{name}.yaml").settings.data.masks:
        drawn, info = draw_mask([family], (368, 384), np.random.default_rng(3), calibrated=True)
        lines = family.family == "gaussian1d"
        # int(n / R) samples, and the centre of 2 % in addition
        rate = next(r for r in family.acceleration if 0.85 * r <= info["acceleration"] <= r)
        centre = np.abs(np.arange(384) - 192) < 0.02 * 384 / (2 if lines else 1) - 1
        assert drawn[184, centre].all()
        seed = _seed_of(3, family.axis)
        again = [make_mask(family.family, (368, 384), rate, seed=seed, axis=a, compat="mridc").mask for a in range(2)]
        assert any(np.array_equal(drawn, mask) for mask in again)


def _seed_of(seed, axis):
    """Return the seed of the mask that `draw_mask` draws of one family."""
    rng = np.random.default_rng(seed)
    rng.choice(1, p=[1.0])
    if axis == "either":
        rng.integers(2)
    return int(rng.integers(2**31))


MISTAKES = [
    # text, words of the message, line
    ("method: cirim\nmodell:\n  steps: 3\n", ["unknown key 'modell'", "did you mean 'model'"], 2),
    ("method: cirm\n", ["unknown method 'cirm'", "did you mean 'cirim'"], 1),
    ("method: cirim\nmodel:\n  stepz: 3\n", ["unknown option 'stepz'", "did you mean 'steps'"], 3),
    ("method: cirim\nmodel:\n  steps: three\n", ["'three'", "integer"], 3),
    ("method: cirim\nmodel:\n  steps: 0\n", ["cannot be 0", "greater"], 3),
    ("method: cirim\ndata:\n  masks:\n    - family: radial\n      acceleration: [4]\n", ["'radial'", "poisson"], 4),
    ("method: cirim\ndata:\n  masks:\n    - {family: random, acceleration: [4], centre: 3}\n", ["'centre'"], 4),
    (f"{ONE_MASK}{{family: random, acceleration: [4], compat: mridc}}\n", ["gaussian1d", "no masks of the family"], 4),
    (f"{ONE_MASK}{{family: gaussian1d, acceleration: [4], compat: mridc, calibration: [8]}}\n", ["centre of 2 %"], 4),
    (f"{ONE_MASK}{{family: random, acceleration: [4], fwhm: 0.7}}\n", ["fwhm is only valid with"], 4),
    (f"{ONE_MASK}{{family: equispaced_fraction, acceleration: [4]}}\n", ["needs compat", "fastmri"], 4),
    (f"{ONE_MASK}{{family: random, acceleration: [4], compat: bart}}\n", ["'bart'", "mridc"], 4),
    ("method: cirim\ntrain:\n  steps: 5\n  steps: 6\n", ["'steps'", "twice", ":3"], 4),
    ("method: cirim\ntrain:\n  lr: yes\n", ["'yes'", "number"], 3),
    ("method: cirim\ntrain:\n  lr: '1e-3'\n", ["'1e-3'", "number"], 3),
    ("method: cirim\ntrain:\n  lr: .nan\n", ["nan"], 3),
    ("method: cirim\ntrain:\n  tensorboard: yes\n", ["'yes'", "boolean"], 3),
    ("method: cirim\ntrain:\n  steps: 5\n  epochs: 2\n", ["one of steps, epochs"], 2),
    ("method: cirim\nloss:\n  ssdu: 1.0\n  l1: 1.0\n", ["ssdu"], 2),
    ("method: cirim\nloss:\n  l1: 0\n", ["at least one"], 2),
    ("method: cirim\ndata:\n  crop: [200, 100]\n", ["must not exceed"], 3),
    ("method: cirim\ndata:\n  simulation:\n    snr: [60, 8]\n", ["must not exceed"], 4),
    ("method: cirim\n\ttrain: 3\n", ["tab", "spaces"], 2),
    ("method: &a cirim\nmodel: *a\n", ["anchors and aliases"], 1),
    ("method: !!python/object/apply:os.system [true]\n", ["tag"], 1),
    ("method: cirim\n---\nmethod: rim\n", ["more than one YAML document"], 2),
    ("method: [cirim\n", ["cannot be read"], 2),
    ("- cirim\n", ["a mapping"], None),
    ("", ["a mapping"], None),
    ("train: {steps: 3}\n", ["has no method"], None),
    ("method: cirim\n? [a, b]\n: 3\n", ["a key must be a single value"], 2),
    ("base: nowhere.yaml\nmethod: cirim\n", ["'nowhere.yaml' does not exist"], 1),
    ("base: [run.yaml]\nmethod: cirim\n", ["cycle"], None),
    ("[" * 30_000, ["cannot be read"], None),
    ("a: " + "[" * 40 + "]" * 40, ["levels"], 1),
]


@pytest.mark.parametrize(("text", "words", "line"), MISTAKES, ids=[str(i) for i in range(len(MISTAKES))])
def test_mistakes_are_named(write, text, words, line):
    path = write(text)
    with pytest.raises(UsageError) as caught:
        load_config(path)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert (f"{path}:{line}" if line else str(path)) in message


def test_an_alias_bomb_is_small(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(UsageError, match="cannot be read"):
        load_config(write("\n".join(lines)))


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path / "no.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not text"):
        load_config(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_text("x" * (1 << 21))
    with pytest.raises(InputError, match="too large"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1e-3", 1e-3), ("1E5", 1e5), (".5", 0.5), ("3", 3), ("-2", -2), ("1_000", 1000), ("010", 10.0), ("1.", 1.0)],
        *[
            ("true", True),
            ("no", "no"),
            ("on", "on"),
            ("~", None),
            ("null", None),
            ("12:30", "12:30"),
            ("0x10", "0x10"),
        ],
    ],
)
def test_words_mean_what_people_mean(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_a_key_may_be_called_on():
    assert parse_yaml("on: magnitude", "x").values == {"on": "magnitude"}


def test_bases_below_overrides_above(write):
    write("train: {steps: 5, lr: 0.1}\ndata: {crop: [64, 64]}\nmodel: {features: 8}\nmethod: rim\n", "base/a.yaml")
    write("train: {lr: 0.2}\n", "base/b.yaml")
    path = write("base: [base/a.yaml, base/b.yaml]\ntrain: {warmup: 3}\n")
    loaded = load_config(path, ["train.warmup=4", "data.masks=[{family: random, acceleration: [2]}]"])
    s = loaded.settings
    assert (s.train.steps, s.train.lr, s.train.warmup, s.data.crop, s.model["features"]) == (5, 0.2, 4, [64, 64], 8)
    text = render(loaded, origins=True)
    origin = {line.split(":")[0].strip(): line for line in text.splitlines() if "#" in line}
    assert "a.yaml:1" in origin["steps"]
    assert "b.yaml:1" in origin["lr"]
    assert "--set train.warmup=4" in origin["warmup"]
    assert "# default" in origin["gradient_clip"]
    # another method does not inherit the options of the previous one
    other = load_config(path, ["method=unet"])
    assert "features" not in other.settings.model
    # a length in epochs takes the place of one in steps
    assert load_config(path, ["train.epochs=2"]).settings.train.steps is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- train\n", "a list"),
        ("just words\n", "'just words'"),
        ("12\n", "'12'"),
        ("# nothing but this\n", "empty"),
        ("", "empty"),
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_a_base_that_is_no_mapping_is_refused(write, text, why, deep):
    write(text, "base/a.yaml")
    write("base: a.yaml\n", "base/b.yaml")
    name = "base/b.yaml" if deep else "[base/a.yaml]"
    path = write(f"{GOOD}base: {name}\n")
    with pytest.raises(UsageError, match=r"the base '.*a\.yaml' is not a configuration") as caught:
        load_config(path)
    assert why in str(caught.value.why)
    assert str(caught.value.where).endswith("b.yaml:1" if deep else "run.yaml:4")


@pytest.mark.parametrize("path", OWN + PAPERS, ids=lambda p: p.stem)
def test_what_is_shown_can_be_loaded(path, write):
    loaded = load_config(path)
    again = load_config(write(render(loaded)))
    assert again.plain() == loaded.plain()
    assert load_config(write(render(loaded, origins=True))).plain() == loaded.plain()


@pytest.mark.parametrize("name", sorted(methods()))
def test_templates_load(name, write):
    path = write(template(name))
    assert load_config(path).settings.method == name
    described = path.read_text().splitlines()
    for option, field in find_method(name).documented_schema["properties"].items():
        (line,) = [x for x in described if x.startswith(f"#   {option}: ")]
        assert line.endswith(f"# {field['description']}"), option
    # without the comment signs, it gives the same values
    lines = [
        line.replace("# ", "", 1) if line.startswith(("# model:", "#   ", "  # ")) else line
        for line in path.read_text().splitlines()
    ]
    lines = [line for line in lines if not line.startswith("  epochs: null")]
    assert load_config(write("\n".join(lines))).plain() == load_config(write(template(name))).plain()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model.cascades", ["is not an override"]),
        ("modle.cascades=3", ["unknown key 'modle'", "did you mean 'model'"]),
        ("model.cascads=3", ["did you mean 'cascades'"]),
        ("train.lr=fast", ["'fast'"]),
        ("data.masks.9.family=random", ["no entry 9"]),
        ("base=other.yaml", ["unknown key 'base'"]),
        ("train.lr=[", ["cannot be read"]),
        ("data.simulation.noise.level=3", ["unknown key 'noise'"]),
    ],
)
def test_overrides_that_are_wrong(write, text, words):
    with pytest.raises(UsageError) as caught:
        load_config(write(GOOD), [text])
    for word in [*words, f"--set {text}"]:
        assert word in str(caught.value)


def test_one_stands_for_a_list(write):
    masks = "data.masks=[{family: random, acceleration: 4, calibration: 16}]"
    more = ["data.train=a.npz", "data.val=b.npz", "data.crop=96", "data.simulation.snr=30", masks]
    data = load_config(write(GOOD), more).settings.data
    assert (data.train, data.val, data.crop, data.simulation.snr) == (["a.npz"], ["b.npz"], [96, 96], [30.0, 30.0])
    assert (data.masks[0].acceleration, data.masks[0].calibration) == ([4.0], [16])
    assert load_config(write(GOOD), ["data.val=0.2"]).settings.data.val == 0.2
    (one,) = load_config(write(GOOD), [masks, "data.masks.0.family=poisson"]).settings.data.masks
    assert (one.family, one.acceleration) == ("poisson", [4.0]), "an entry of a list can be changed"


def test_schema_knows_the_options():
    result = json.dumps(schema("cirim"))
    for word in ("cascades", "acceleration", "additionalProperties", "indrnn"):
        assert word in result


def test_differences_are_lines():
    old = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    assert differences(old, {"a": {"b": 2, "c": [1, 2]}, "d": None}) == ["a.b: 1 -> 2"]


def test_paths_start_from_the_file_or_from_here(write, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.npz").write_bytes(b"")
    path = write("method: cirim\ndata: {train: [../data/*.npz], val: [$NOWHERE/y]}\n", "configs/run.yaml")
    monkeypatch.chdir(tmp_path)
    data = load_config(path).settings.data
    assert [Path(p).resolve() for p in data.train] == [tmp_path / "data" / "*.npz"]
    assert data.val == ["$NOWHERE/y"]


def test_errors_are_ours_whatever_is_written(write):
    """Check that any file loads or gives a project error."""
    import random

    rng, codes = random.Random(0), set()
    text = (CONFIGS / "cirim.yaml").read_text().replace("base/", f"{CONFIGS}/base/")
    for _ in range(300):
        mangled = list(text)
        for _ in range(rng.randint(1, 4)):
            mangled[rng.randrange(len(mangled))] = rng.choice("\t:{}[],&*!|>'\"%@`#-? \n0aé\x07")
        try:
            load_config(write("".join(mangled)))
        except MriReconError as error:
            codes.add(error.exit_code)
    assert codes <= {2, 3}


@pytest.mark.parametrize("text", ['data: {bank: "a\\0b"}', 'data: {train: ["a\\0b"]}', 'base: "a\\0b"'])
def test_what_no_name_can_hold_is_refused(write, text):
    with pytest.raises(UsageError, match="cannot be read") as caught:
        load_config(write(f"{GOOD}{text}\n"))
    assert "NUL" in caught.value.why
