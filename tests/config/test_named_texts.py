"""Test how the shares of --mixture are read, and which are errors."""

import pytest

from cloze.config.named_texts import parse_shares
from cloze.errors import UserError


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [
        (["law=0.8", "general=0.2"], {"law": 0.8, "general": 0.2}),
        (["general=20", "law=80"], {"law": 0.8, "general": 0.2}),
        (["law=8e-1", "general=.2"], {"law": 0.8, "general": 0.2}),
        (["law=0.9999999", "general=1e-7"], {"law": 0.9999999, "general": 1e-7}),
    ],
)
def test_shares_are_fractions_or_percentages(mixture, expected):
    shares = parse_shares(mixture, ["law", "general"])
    assert shares == pytest.approx(expected)
    assert list(shares) == ["law", "general"], "the first source of --train_file defines the epoch"
    assert sum(shares.values()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("mixture", "sources", "message"),
    [
        ("law=0.8 general", "law general", "--mixture general is not NAME=SHARE: give a share for each text"),
        ("law=0.8 general=x", "law general", "--mixture general=x is not NAME=SHARE"),
        ("0.8 0.2", "law general", "--mixture 0.8 is not NAME=SHARE"),
        ("law=1 general=0", "law general", "--mixture general=0: a share is a number above 0: raise it, or drop"),
        ("law=1.2 general=-0.2", "law general", "--mixture general=-0.2: a share is a number above 0"),
        ("law=nan general=0.2", "law general", "--mixture law=nan: a share is a number above 0"),
        ("law=inf general=0.2", "law general", "--mixture law=inf: a share is a number above 0"),
        ("law=0.8 general=0.3", "law general", "--mixture law=0.8 general=0.3: the shares add up to 1.1: give shares"),
        ("law=4 general=1", "law general", "the shares add up to 5: give shares that add up to 1, or percentages"),
        ("law=0.8 law=0.2", "law general", "--mixture law=0.8 law=0.2: a name is given twice: give each of law, gen"),
        ("law=0.8 news=0.2", "law general", "--mixture has the names law, news, but --train_file law, general: give"),
        ("law=1", "law general", "--mixture has the names law, but --train_file law, general: give a share for each"),
        ("law=0.5 general=0.3 b=0.2", "law general", "--mixture has the names law, general, b, but --train_file law"),
        ("law=1", "law", "--mixture needs two or more named texts: give --train_file NAME=PATH NAME=PATH"),
        ("law=0.8 general=0.2", "", "--mixture needs two or more named texts"),
    ],
)
def test_wrong_shares_are_one_line_errors(mixture, sources, message):
    with pytest.raises(UserError, match=r"\A[^\n]*\Z") as error:
        parse_shares(mixture.split(), sources.split())
    assert message in str(error.value)


def test_texts_without_names_cannot_be_mixed():
    with pytest.raises(UserError, match="--mixture needs two or more named texts"):
        parse_shares(["law=0.8", "general=0.2"], [""])
