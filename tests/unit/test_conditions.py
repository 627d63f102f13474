"""What people type after --where, --field and --set."""

from __future__ import annotations

import pytest

from shitu_client import field
from shitu_client.conditions import condition_of
from shitu_client.errors import InputError
from shitu_client.values import field_types, guessed_value

FIELDS = {"brand": "string", "price": "number", "sold": "boolean", "in_stock": "boolean"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("brand=cola", field("brand") == "cola"),
        ("brand = Coca Cola ", field("brand") == "Coca Cola"),
        ("brand==cola", field("brand") == "cola"),
        ("brand=42", field("brand") == "42"),
        ("brand=a=b", field("brand") == "a=b"),
        ("brand=>5", field("brand") == ">5"),
        ("brand=", field("brand") == ""),
        ("brand!=cola", field("brand") != "cola"),
        ("price=42", field("price") == 42),
        ("price>=2", field("price") >= 2),
        ("price > -2.5e1", field("price") > -25),
        ("price<=3", field("price") <= 3),
        ("price<3", field("price") < 3),
        ("sold=true", field("sold") == True),  # noqa: E712
        ("in_stock=False", field("in_stock") == False),  # noqa: E712
        ("brand in cola,pepsi", field("brand").is_in(["cola", "pepsi"])),
        ("brand in Coca Cola , pepsi", field("brand").is_in(["Coca Cola", "pepsi"])),
        ("brand  not in cola", ~field("brand").is_in(["cola"])),
        ("price in 1,2", field("price").is_in([1, 2])),
        ("label=Cola Zero", field("label") == "Cola Zero"),
        ("id in a/1.jpg,a/2.jpg", field("id").is_in(["a/1.jpg", "a/2.jpg"])),
        ('{"range": {"field": "price", "atLeast": 2}}', field("price") >= 2),
        (
            """ {"anyOf": {"filters": [{"equals": {"field": "brand", "value": {"string": "a,b"}}},
            {"negation": {"range": {"field": "price", "below": 1}}}]}}""",
            (field("brand") == "a,b") | ~(field("price") < 1),
        ),
    ],
)
def test_a_condition(text, expected):
    assert condition_of([text], FIELDS) == expected


def test_all_must_hold():
    typed = condition_of(["brand=cola", "price>=2", "price<3"], FIELDS)
    assert typed == (field("brand") == "cola") & (field("price") >= 2) & (field("price") < 3)
    assert condition_of([], FIELDS) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cola", "expected NAME=VALUE"),
        ("", "expected NAME=VALUE"),
        ("=cola", "expected NAME=VALUE"),
        ("brand~cola", "expected NAME=VALUE"),
        ("brand incola", "expected NAME=VALUE"),
        ("colour=red", "the gallery has no field colour; it has brand (string), price (number)"),
        ("price=cheap", "price is a number, got 'cheap'"),
        ("price=nan", "price is a number, got 'nan'"),
        ("price=", "price is a number, got ''"),
        ("price in 1,", "price is a number, got ''"),
        ("sold=yes", "sold is true or false, got 'yes'"),
        ("brand>=a", ">= is for numbers, and brand is a string"),
        ("sold<true", "< is for numbers, and sold is a boolean"),
        ('{"range": ', "expected a shitu.v1.Filter as JSON"),
        ('{"rang": {}}', 'no field named "rang"'),
        ('{"range": {"field": 3}}', "expected a shitu.v1.Filter as JSON"),
    ],
)
def test_what_is_no_condition_is_said(text, said):
    with pytest.raises(InputError) as caught:
        condition_of([text], FIELDS)
    assert said in str(caught.value)
    assert "--where" in str(caught.value)


def test_declared_fields():
    assert field_types(["brand:string", "price:number", "sold:boolean"]) == {
        "brand": "string",
        "price": "number",
        "sold": "boolean",
    }
    for wrong in ("brand", "brand:text", ":string", "brand:string:number"):
        with pytest.raises(InputError, match="expected name:type with the type string, number or boolean"):
            field_types([wrong])
    with pytest.raises(InputError, match="expected each name once, got a again"):
        field_types(["a:string", "a:number"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("true", True), ('"3"', "3"), ("cola", "cola"), ("null", None), ("[1,2]", [1, 2]), ("NaN", "NaN")],
)
def test_values_of_fields_that_nobody_declared(text, value):
    guessed = guessed_value(text)
    assert guessed == value
    assert type(guessed) is type(value)
