"""Option names that the parsers of all commands accept."""

import pytest

from espnet2_birq.bin.command import add_shared_options, make_parser


@pytest.mark.parametrize("given", [["--skip-bad"], ["--skip_bad"]])
def test_hyphens_are_underscores(given):
    parser = make_parser("x", "", "")
    add_shared_options(parser, "--skip-bad")
    parser.add_argument("--min_level", type=float)
    parser.add_argument("rest", nargs="*")
    args = parser.parse_args([*given, "--min-level=-3.5", "--", "--skip-bad", "a-b"])
    assert (args.skip_bad, args.min_level) == (True, -3.5)
    assert args.rest == ["--skip-bad", "a-b"]
    assert parser.parse_args(["--min_level", "2"]).min_level == 2
