"""Option names that the parsers of all commands accept."""

import argparse

import pytest

from espnet2_birq.bin.command import add_shared_options, make_parser
from espnet2_birq.options import count, output_file, output_folder, whole_number


@pytest.mark.parametrize("given", [["--skip-bad"], ["--skip_bad"]])
def test_hyphens_are_underscores(given):
    parser = make_parser("x", "", "")
    add_shared_options(parser, "--skip_bad")
    parser.add_argument("--min_level", type=float)
    parser.add_argument("rest", nargs="*")
    args = parser.parse_args([*given, "--min-level=-3.5", "--", "--skip-bad", "a-b"])
    assert (args.skip_bad, args.min_level) == (True, -3.5)
    assert args.rest == ["--skip-bad", "a-b"]
    assert parser.parse_args(["--min_level", "2"]).min_level == 2


@pytest.mark.parametrize(
    "given, rate", [("16k", 16000), ("8000", 8000), ("44.1k", 44100)]
)
def test_sample_rates_as_in_the_recipes(given, rate):
    parser = make_parser("x", "", "")
    add_shared_options(parser, "--fs")
    assert parser.parse_args(["--fs", given]).fs == rate


@pytest.mark.parametrize(
    "parse, bad", [(count, "0"), (whole_number, "-1"), (count, "2.5")]
)
def test_numbers_of_things(parse, bad):
    assert (parse("3"), whole_number("0")) == (3, 0)
    for word in (bad, "many", "99999999999"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"'{word}' is not a"):
            parse(word)


@pytest.mark.parametrize("given", ["0", "-8k", "fast", "nan", "1e999"])
def test_no_sample_rates(given, capsys):
    parser = make_parser("x", "", "")
    add_shared_options(parser, "--fs")
    with pytest.raises(SystemExit):
        parser.parse_args([f"--fs={given}"])
    assert "no sample rate, give 16k or 16000" in capsys.readouterr().err


def test_output_files_are_checked_before_the_work(tmp_path):
    new = tmp_path / "new" / "folder" / "x.npz"
    assert output_file(str(new)) == new and not new.parent.exists()
    assert output_file("x.npz").name == "x.npz"
    with pytest.raises(argparse.ArgumentTypeError, match="is a folder; name a file"):
        output_file(str(tmp_path))
    (tmp_path / "file").touch()
    assert output_file(str(tmp_path / "file")).is_file()
    with pytest.raises(argparse.ArgumentTypeError, match="file is no folder"):
        output_file(str(tmp_path / "file" / "x.npz"))
    assert output_folder(str(tmp_path)) == tmp_path
    assert output_folder(str(new)) == new and not new.parent.exists()
    with pytest.raises(argparse.ArgumentTypeError, match="is a file; name a folder"):
        output_folder(str(tmp_path / "file"))
