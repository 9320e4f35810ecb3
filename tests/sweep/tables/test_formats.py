"""Figures as readers see them."""

import numpy as np
import pytest

from sweep.tables.blocks import Column, Table
from sweep.tables.formats import Estimate, format_cell, format_seconds, format_uncertainty, format_value
from sweep.tables.text_files import format_csv


def test_cells_say_what_is_known_of_them() -> None:
    assert format_value(Estimate(-0.5), "difference") == "-0.500"
    assert [format_value(value, "difference") for value in (-0.0, -0.0001, 0.25)] == ["+0.000", "+0.000", "+0.250"]
    assert format_uncertainty(Estimate(0.5, low=-0.25, high=1.0), "score") == "-0.250 to 1.000"
    assert format_uncertainty(Estimate(0.5, std=0.0625), "score") == "± 0.062"
    assert format_cell(Estimate(0.5, 0.25, 1.0), "score") == "0.500 (0.250 to 1.000)"
    assert [format_value(value, "score") for value in (None, float("nan"), float("inf"))] == ["-", "-", "-"]
    assert format_value(0.00004, "p") == "<0.001"
    assert [format_value(value, "seconds") for value in (9.25, 61.0)] == ["9.2 s", "1:01"]
    columns = (Column("a", "A", "score"), Column("b", ""))
    table = Table("t", "T", columns, ({"a": Estimate(1.5, 1.0, 2.0), "b": 'x,"y"'}, {"a": np.float64(2.5)}))
    assert format_csv(table) == 'a,a_low,a_high,b\n1.5,1.0,2.0,"x,""y"""\n2.5,,,\n'  # its method `std` is none


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (3599.5, "1:00:00"),
        (3661, "1:01:01"),
        (90061, "25:01:01"),
        (-3, "0:00"),
    ],
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
