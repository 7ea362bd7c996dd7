"""Markdown tables."""

from espnet2_birq.evaluation.markdown import markdown_table


def test_table():
    table = markdown_table(["set", "WER"], [["dev", 1.5], ["", "-"]], right=["WER"])
    assert table.splitlines() == [
        "| set | WER |",
        "|---|---:|",
        "| dev | 1.5 |",
        "|  | - |",
    ]
