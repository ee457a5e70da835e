import math

import pytest

from cflows import claims


def test_verdicts(capsys):
    assert claims.settle("a share", 0.004, "<", 0.005, percent=True).holds
    assert capsys.readouterr().out == "holds: a share: 0.4 % (claimed: < 0.5 %)\n"
    assert not claims.settle("a number", 3, ">", 3).holds
    assert "DOES NOT HOLD" in capsys.readouterr().out
    assert claims.settle("a number", 3, ">=", 3).holds
    assert not claims.settle("nothing", math.nan, "<", 1).holds


def test_strictness(monkeypatch):
    monkeypatch.setenv("CFLOWS_STRICT", "1")
    claims.settle("true", 1, "<", 2)
    with pytest.raises(claims.ClaimError, match="DOES NOT HOLD: false: 3"):
        claims.settle("false", 3, "<", 2)


def test_bad_comparison_is_named():
    with pytest.raises(ValueError, match="'=='"):
        claims.settle("x", 1, "==", 1)
