"""What a run prints, on its way to a file."""

from pathlib import Path

from ulos_stream.executors import Output


def test_what_exceeds_the_limit_is_counted_once_however_often_the_file_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "output.txt"
    output = Output(file.open("wb"), limit_bytes=4)

    output.write(b"kept, cut")
    output.close()
    output.close()

    assert file.read_bytes() == b"kept\n# output cut: 5 more bytes\n"
    assert output.tail() == "kept, cut"


def test_output_within_the_limit_is_kept_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "output.txt"
    output = Output(file.open("wb"), limit_bytes=4)

    output.write(b"four")
    output.close()

    assert file.read_bytes() == b"four"


def test_remarks_are_lines_of_their_own_that_count_for_nothing(tmp_path: Path) -> None:
    file = tmp_path / "output.txt"
    output = Output(file.open("wb"), limit_bytes=4)

    output.remark("before")
    output.write(b"four")
    output.close("PASS")

    assert file.read_bytes() == b"# before\nfour\n# PASS\n"
    assert (output.tail(), output.dropped_bytes) == ("four", 0)
