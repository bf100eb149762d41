"""Test that Bruker ParaVision data are rejected with an explanation and advice."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from mrirecon import io
from mrirecon.cli import app
from mrirecon.errors import InputError

PARAMETERS = "##TITLE=Parameter List, ParaVision 360\n##JCAMPDX=4.24\n##END=\n"


@pytest.fixture
def study(tmp_path):
    """A folder laid out as ParaVision does it: a study, its scans by number, and images in a folder of their own."""
    for number in ("3", "10"):
        scan = tmp_path / "study" / number
        (scan / "pdata" / "1").mkdir(parents=True)
        for name in ("acqp", "method", "pdata/1/visu_pars", "pdata/1/reco"):
            (scan / name).write_text(PARAMETERS)
        for name in ("rawdata.job0", "pdata/1/2dseq"):
            (scan / name).write_bytes(bytes(range(256)) * 8)
    (tmp_path / "study" / "10" / "fid").write_bytes(bytes(range(256)) * 8)
    return tmp_path / "study"


@pytest.mark.parametrize(
    ("name", "samples"),
    [
        ("10", "10/fid"),
        ("10/fid", "10/fid"),
        ("3/rawdata.job0", "3/rawdata.job0"),
        ("10/acqp", "10/fid"),
        ("3/pdata/1/2dseq", "3/pdata/1/2dseq"),
        ("", "10/fid"),
    ],
)
@pytest.mark.parametrize("command", ["info", "reconstruct"])
def test_every_way_to_name_a_scan_is_answered(study, tmp_path, name, samples, command):
    with pytest.raises(InputError, match="Bruker ParaVision") as caught:
        io.read(study / name)
    assert str(study / samples) in caught.value.fix
    assert "numpy.savez" in caught.value.fix
    arguments = [command, str(study / name), *(["-o", str(tmp_path / "x.h5")] if command == "reconstruct" else [])]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, InputError)
    assert "Bruker ParaVision" in str(result.exception)


def test_other_files_of_these_names_are_what_they_are(tmp_path):
    (tmp_path / "fid").write_bytes(bytes(range(256)))
    (tmp_path / "method").write_text("by hand")
    for name, words in (("fid", "unknown binary data"), ("method", "plain text")):
        with pytest.raises(InputError, match="is not one of") as caught:
            io.read(tmp_path / name)
        assert words in caught.value.why
