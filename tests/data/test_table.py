import pytest
from helpers_data import write_csv

from medtl_monai.data.table import listing, natural, read_table
from medtl_monai.errors import DataError


def read(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))
    return read_table(path)


def test_every_value_is_text(tmp_path):
    table = read(tmp_path, "id,x\n00123, 1.50 \n1e3,NA\n")
    assert [row["id"] for row in table.rows] == ["00123", "1e3"]
    assert table.rows[0]["x"] == "1.50"
    assert table.rows[1].missing("x")
    assert not table.rows[1].missing("id")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_byte_order_marks_and_separators(tmp_path, encoding, separator):
    table = read(tmp_path, f'id{separator}lists\nä{separator}"a;b,c"\n', encoding)
    assert table.columns == ("id", "lists")
    assert table.rows[0].values == {"id": "ä", "lists": "a;b,c"}


def test_rows_are_numbered_like_a_spreadsheet(tmp_path):
    table = read(tmp_path, 'id,x\na,1\n\n"b\nb",2\nc,3\n')
    assert [(row.number, row["id"]) for row in table.rows] == [(2, "a"), (4, "b\nb"), (5, "c")]


def test_a_row_does_not_show_its_values(tmp_path):
    assert "DOE" not in repr(read(tmp_path, "id\nDOE^JANE\n").rows)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no header"),
        ("a,b\n", "no rows"),
        ("a,,c\n1,2,3\n", "column 2"),
        ("a,b,a\n1,2,3\n", "column a"),
        ("a,b\n1,2\n1,2,3\n", "row 3"),
        ("a,b\n1\x00,2\n", "not text"),
        ('a,b\n"1,2\n', "cannot be read"),
    ],
)
def test_broken_tables_are_refused(tmp_path, text, says):
    with pytest.raises(DataError, match=says):
        read(tmp_path, text)


def test_other_encodings_are_refused(tmp_path):
    with pytest.raises(DataError, match="UTF-8"):
        read(tmp_path, "id\nä\n", "latin-1")
    with pytest.raises(DataError):
        read(tmp_path, "id\nä\n", "utf-16")


def test_an_absent_table_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such"):
        read_table(tmp_path / "none.csv")


def test_a_missing_column_suggests_the_nearest(tmp_path):
    table = read(tmp_path, "large,small\n1,0\n")
    with pytest.raises(DataError, match=r"'larg'.*Did you mean 'large'"):
        table.require("larg", "data.target")


def test_columns_are_found_whatever_their_punctuation(tmp_path):
    table = read_table(write_csv(tmp_path / "t.csv", [{"Patient_ID": "1", "x": "2"}]))
    assert table.find("patientid") == "Patient_ID"
    assert table.find("subject") is None


def test_long_listings_are_cut():
    assert listing("row", [2]) == "row 2"
    assert listing("row", range(25)).endswith("9, … (25 in all)")


def test_natural_order():
    assert sorted(["T10", "T2", "T", "a1"], key=natural) == ["a1", "T", "T2", "T10"]
