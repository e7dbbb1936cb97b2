"""Files of keys: what is read of them, and that no fault shows what may be a secret."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bitmesh_proxy.cli.key_file import Faults, foreign_key, read_keys

SECRET = "s3cret-of-somebody/+="
ROW = {"consumer_key": "ck_1", "consumer_secret": SECRET}


def faults_of(content: bytes | str) -> list[str]:
    with pytest.raises(Faults) as caught:
        read_keys(content.encode() if isinstance(content, str) else content)
    assert SECRET not in str(caught.value)
    return list(caught.value.sentences)


@pytest.mark.parametrize(
    "content",
    [
        f"consumer_key,consumer_secret,name,allowed_models,budget_day\nck_1,{SECRET},old one,a b,1.50\n\n"
        f"ck-2.x,{SECRET},,,\n",
        f"\ufeffconsumer_key;consumer_secret;name;allowed_models;budget_day\r\nck_1; {SECRET} ;old one;a b;1.50\r\n"
        f"ck-2.x;{SECRET};;;\r\n",
        f'{{"consumer_key":"ck_1","consumer_secret":"{SECRET}","name":"old one","allowed_models":["a","b"],'
        f'"budget_day":1.5}}\n\n{{"consumer_key":"ck-2.x","consumer_secret":"{SECRET}","name":null}}',
    ],
    ids=["commas", "semicolons", "json"],
)
def test_both_kinds_of_file_say_the_same(content: str) -> None:
    first, second = read_keys(content.encode())
    assert (first.consumer_key, first.consumer_secret, first.account) == ("ck_1", SECRET, None)
    assert first.limits == {"name": "old one", "allowed_models": ("a", "b"), "budget_day_nano_usd": 1_500_000_000}
    assert (second.consumer_key, second.limits) == ("ck-2.x", {})
    assert SECRET not in repr(first)


def test_every_field_becomes_one_of_a_key() -> None:
    row = {
        **ROW, "account": "acme", "name": "n", "bound_model": "a", "allowed_models": ["a"], "rate_per_minute": 0,
        "max_concurrent": "4", "budget_day": "0", "budget_month": 20, "expires": "2099-01-01",
    }  # fmt: skip
    key = foreign_key(row)
    assert key.account == "acme"
    assert key.limits == {
        "name": "n",
        "bound_model": "a",
        "allowed_models": ("a",),
        "rate_per_minute": 0,
        "max_concurrent": 4,
        "budget_day_nano_usd": 0,
        "budget_month_nano_usd": 20_000_000_000,
        "expires_at_s": 4_070_908_800.0,
    }


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"consumer_key": None}, "consumer_key is missing"),
        ({"consumer_key": SECRET}, "consumer_key: want"),
        ({"consumer_secret": "short"}, "consumer_secret: want 8 to 512"),
        ({"consumer_secret": " " + SECRET}, "consumer_secret: want no blanks"),
        ({"consumer_secret": SECRET + "\ud800"}, "consumer_secret: want no blanks"),
        ({"consumer_secret": 12345678}, "consumer_secret: want a text"),
        ({"account": 5}, "account: want"),
        ({"name": "x" * 201}, "name: want"),
        ({"bound_model": " "}, "bound_model: want"),
        ({"allowed_models": [1]}, "allowed_models: want"),
        ({"allowed_models": []}, "allowed_models: want"),
        ({"rate_per_minute": SECRET}, "rate_per_minute: want"),
        ({"rate_per_minute": True}, "rate_per_minute: want"),
        ({"max_concurrent": -1}, "max_concurrent: want"),
        ({"budget_day": "-1"}, "budget_day: want"),
        ({"budget_month": SECRET}, "budget_month: want"),
        ({"expires": "2020-01-01"}, "expires: want"),
        ({"rate_per_min": 5}, "'rate_per_min' is no field"),
    ],
)
def test_a_fault_is_named_without_what_stands_there(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(Faults) as caught:
        foreign_key({**ROW, **change}, place="line 7")
    (sentence,) = caught.value.sentences
    assert sentence.startswith(f"line 7: {fault}")
    assert SECRET not in sentence


def test_all_faults_of_all_lines_are_said() -> None:
    lines = [{**ROW, "name": 7, "rate_per_minute": "x"}, ROW, {**ROW, "budget_day": "x", "expires": "x"}]
    content = b"\n".join(map(orjson.dumps, lines)) + b"\n[]\n{\n\n" + orjson.dumps(ROW)
    assert [sentence.partition(": ")[0::2] for sentence in faults_of(content)] == [
        ("line 1", "rate_per_minute: want a whole number, 0 for no limit"),
        ("line 3", "budget_day: want US dollars such as 1.50"),
        ("line 3", "expires: want a date that is not over (2026-12-31), or 30d, 12h"),
        ("line 4", "want one JSON object a line"),
        ("line 5", "want one JSON object a line"),
        ("line 7", "the consumer key ck_1 stands on line 2 already"),
    ]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "no keys in it"),
        ("consumer_key,consumer_secret\n", "no keys in it"),
        (f"ck_1,{SECRET}\n", "line 1: want names of columns"),
        (f"consumer_key,{SECRET},consumer_secret\n", "(of column 2 there is none such)"),
        ("consumer_key,consumer_key,consumer_secret\n", "each once"),
        (f"consumer_key,consumer_secret\nck_1,{SECRET},{SECRET}\n", "line 2: want 2 cells"),
        (f'consumer_key,consumer_secret\nck_1,"{SECRET}', "line 2: a cell does not end"),
        (b"consumer_key,consumer_secret\nck_1,\xff\xfe\n", "line 2: not UTF-8"),
    ],
)
def test_what_is_no_such_file_is_said(content: str | bytes, fault: str) -> None:
    (sentence,) = faults_of(content)
    assert fault in sentence
