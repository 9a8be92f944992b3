"""Tables for terminals and in Markdown."""

from kosmos_plugin.reporting.tables import Table, as_markdown, as_text

TABLE = Table("Fruit", ("name", "number", "share"), [("apple", "1,200", "9.5%"), ("a|b", "7", "")], "A note.")


def test_columns_of_numbers_are_aligned_to_the_right():
    assert TABLE.numeric == [False, True, True]
    assert as_text(TABLE).splitlines() == [
        "Fruit",
        "  name   number  share",
        "  apple   1,200   9.5%",
        "  a|b         7",
        "  A note.",
    ]


def test_markdown_escapes_what_would_end_a_cell():
    assert as_markdown(TABLE, level=3).splitlines() == [
        "### Fruit",
        "",
        "| name | number | share |",
        "| --- | ---: | ---: |",
        "| apple | 1,200 | 9.5% |",
        "| a\\|b | 7 |  |",
        "",
        "A note.",
    ]


def test_a_table_without_lines():
    assert as_text(Table("None", ("a", "b"), [])) == "None\n  a  b"
