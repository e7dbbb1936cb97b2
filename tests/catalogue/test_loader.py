"""Loading rows: what becomes of a good one, and that every bad one stops the start with file, line and reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitmesh_proxy.calls import Operation
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.loader import load_catalogue
from bitmesh_proxy.catalogue.row_files import CatalogueError
from bitmesh_proxy.money import parse_usd

PROVIDERS = {"alpha", "beta"}

GOOD_MODEL = """\
[[model]]
id = "acme/foo"
operation = "chat"
"""
GOOD_OFFER = """\
[[offer]]
model = "acme/foo"
provider = "alpha"
upstream_model = "foo-1"
usd_per_million_input_tokens = "0.15"
usd_per_million_output_tokens = "0.60"
"""


def load(tmp_path: Path, *texts: str) -> Catalogue:
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.toml").write_text(text, encoding="utf-8")
    return load_catalogue([tmp_path], providers=PROVIDERS)


def problems(tmp_path: Path, *texts: str) -> list[str]:
    """The problems as ``file:line: reason``, without the directory."""
    with pytest.raises(CatalogueError) as caught:
        load(tmp_path, *texts)
    assert str(caught.value) == "\n".join(str(problem) for problem in caught.value.problems)
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


# ---------------------------------------------------------------- good rows


def test_facts_are_stated_once_and_offers_stand_in_any_file(tmp_path: Path) -> None:
    second = GOOD_OFFER.replace("alpha", "beta").replace('"0.15"', '"0.10"') + "priority = 5\n"
    catalogue = load(
        tmp_path,
        second,
        '[[model]]\nid = "acme/foo"\noperation = "chat"\ntitle = "Foo"\nowner = "Acme"\naliases = ["foo"]\n'
        'inputs = ["text", "image"]\ncontext_tokens = 1000\nmax_output_tokens = 100\nreleased_on = 2026-01-31\n'
        'retires_on = "2027-01-31"\n' + GOOD_OFFER + "max_output_tokens = 50\ntools = true\nimages_in_chat = true\n",
    )
    model = catalogue.get("foo")
    assert (model.title, model.owner, model.inputs, model.outputs) == ("Foo", "Acme", ("text", "image"), ("text",))
    assert model.offers[0].context_tokens == 1000
    assert (model.context_tokens, model.released_on, model.retires_on) == (1000, "2026-01-31", "2027-01-31")
    assert [offer.id for offer in model.offers] == ["beta:foo-1", "alpha:foo-1"]
    beta, alpha = model.offers
    assert alpha.price.input_nano_usd_per_million == parse_usd("0.15")
    assert alpha.price.output_nano_usd_per_million == parse_usd("0.60")
    assert (alpha.max_output_tokens, beta.max_output_tokens) == (50, 100)
    assert (alpha.abilities.tools, beta.abilities.tools) == (True, False)
    assert alpha.operation is Operation.CHAT


def test_a_bare_row_gets_what_its_operation_implies(tmp_path: Path) -> None:
    model = load(tmp_path, GOOD_MODEL + GOOD_OFFER).get("acme/foo")
    assert (model.title, model.owner, model.aliases, model.inputs, model.outputs) == (
        "foo",
        "acme",
        (),
        ("text",),
        ("text",),
    )


def test_a_model_ends_when_the_last_of_its_offers_does(tmp_path: Path) -> None:
    ending = GOOD_OFFER + "retires_on = 2026-12-01\n"
    later = GOOD_OFFER.replace("alpha", "beta") + "retires_on = 2027-04-01\n"
    assert load(tmp_path, GOOD_MODEL + ending + later).get("acme/foo").retires_on == "2027-04-01"
    assert load(tmp_path, GOOD_MODEL + ending + GOOD_OFFER.replace("alpha", "beta")).get("acme/foo").retires_on is None


def test_an_offer_of_a_picture_with_tiers_and_a_sell_price(tmp_path: Path) -> None:
    text = """
[[model]]
id = "acme/pic"
operation = "image"

[[offer]]
model = "acme/pic"
provider = "alpha"
upstream_model = "pic"
usd_per_image = "0.12"
usd_per_image_by = { "1024x1024" = "0.04", "hd/1024x1024" = "0.08" }
usd_per_input_image = "0.001"
sizes = ["1024x1024", "512x512"]
qualities = ["standard", "hd"]
quality_map = { high = "hd" }
sell = { usd_per_image = "0.20" }
defaults = { steps = 4 }
options = { voice = "none" }
"""
    (offer,) = load(tmp_path, text).get("acme/pic").offers
    assert offer.price.image_nano_usd == parse_usd("0.12")
    assert offer.price.image_tiers == {"1024x1024": parse_usd("0.04"), "hd/1024x1024": parse_usd("0.08")}
    assert offer.sell_price is not None
    assert offer.sell_price.image_nano_usd == parse_usd("0.20")
    assert (offer.markup_nano, offer.defaults, offer.options) == (None, {"steps": 4}, {"voice": "none"})
    assert offer.quality_for("high") == "hd"


def test_long_contexts_markups_free_and_reported_offers(tmp_path: Path) -> None:
    text = (
        GOOD_MODEL
        + GOOD_OFFER
        + 'markup = "1.25"\nreported_by_provider = true\n[offer.long_context]\nabove_tokens = 200_000\n'
        + 'price = { usd_per_million_input_tokens = "0.30", usd_per_million_output_tokens = "0.90" }\n'
        + '[[offer]]\nmodel = "acme/foo"\nprovider = "beta"\nupstream_model = "foo"\nfree = true\n'
    )
    paid, free = load(tmp_path, text).get("acme/foo").offers
    assert paid.markup_nano == 1_250_000_000
    assert paid.price.is_reported
    assert paid.price.long_context_above_tokens == 200_000
    assert paid.price.for_input(200_001).input_nano_usd_per_million == parse_usd("0.30")
    assert free.price.is_free
    assert not free.price.counts_tokens


def test_later_directories_add_to_earlier_ones(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for directory, text in ((first, GOOD_MODEL + GOOD_OFFER), (second, GOOD_OFFER.replace("alpha", "beta"))):
        directory.mkdir()
        (directory / "x.toml").write_text(text)
    (second / "notes.txt").write_text("not a catalogue")
    assert len(load_catalogue([first, second], providers=PROVIDERS).get("acme/foo").offers) == 2


def test_a_zero_side_of_a_price_is_no_missing_one(tmp_path: Path) -> None:
    (offer,) = load(tmp_path, GOOD_MODEL + GOOD_OFFER.replace('"0.60"', '"0"')).get("acme/foo").offers
    assert offer.price.output_nano_usd_per_million == 0


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            'usd_per_image = "1"\nsizes = ["8x8"]\nusd_per_image_by = { "hd/9x9" = "1" }',
            "price of hd/9x9: 9x9 is not among sizes",
        ),
        ('usd_per_image = "1"\nusd_per_image_by = { "hd" = 0.5 }', 'write "0.15", with quotes'),
    ],
)
def test_tiers_of_a_picture_are_looked_at(tmp_path: Path, row: str, reason: str) -> None:
    text = GOOD_MODEL.replace("chat", "image") + '[[offer]]\nmodel = "acme/foo"\nprovider = "alpha"\n'
    (problem,) = problems(tmp_path, f'{text}upstream_model = "x"\n{row}\n')
    assert reason in problem


def test_a_clip_by_the_second_needs_a_length_of_its_own(tmp_path: Path) -> None:
    text = GOOD_MODEL.replace("chat", "video") + '[[offer]]\nmodel = "acme/foo"\nprovider = "alpha"\n'
    (problem,) = problems(tmp_path, f'{text}upstream_model = "x"\nusd_per_second = "0.1"\n')
    assert "default_seconds: needed to price a call that names no length" in problem


# ---------------------------------------------------------------- bad rows


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('usd_per_million_input_tokens = "0.15"', "unpriced"),
        ("", "unpriced"),
        (
            'usd_per_image = "1"\nusd_per_million_input_tokens = "1"\nusd_per_million_output_tokens = "1"',
            "usd_per_image: not a unit that chat is priced by",
        ),
        (
            'usd_per_million_input_tokens = "-1"\nusd_per_million_output_tokens = "1"',
            "usd_per_million_input_tokens: negative: -1",
        ),
        (
            'usd_per_million_input_tokens = "1"\nusd_per_million_output_tokens = "1001"',
            "usd_per_million_output_tokens: 1001 USD is not believable (from 0.0005 to 1000, or 0)",
        ),
        (  # a price per token, written where one per million belongs
            'usd_per_million_input_tokens = "0.00000015"\nusd_per_million_output_tokens = "1"',
            "usd_per_million_input_tokens: 0.00000015 USD is not believable",
        ),
        (
            'usd_per_million_input_tokens = "1e3"\nusd_per_million_output_tokens = "1"',
            "want a plain decimal string",
        ),
        (
            'usd_per_million_input_tokens = "$0.15"\nusd_per_million_output_tokens = "1"',
            "want a plain decimal string",
        ),
        (
            'usd_per_million_input_tokens = "0.1234567891"\nusd_per_million_output_tokens = "1"',
            "finer than a nano-dollar",
        ),
        (
            'usd_per_million_input_tokens = 0.15\nusd_per_million_output_tokens = "1"',
            '(a price is a decimal string: write "0.15", with quotes)',
        ),
        (
            'usd_per_million_input_tokens = 1\nusd_per_million_output_tokens = "1"',
            '(a price is a decimal string: write "0.15", with quotes)',
        ),
        ('usd_per_million_input_tokens = "0"\nusd_per_million_output_tokens = "0.00"', "every price is zero"),
        ('free = true\nusd_per_million_input_tokens = "1"', "free = true beside a price"),
        ('free = true\nusd_per_million_tokens = "1"', "unknown field `usd_per_million_tokens`"),
        ("free = true\ncontext_tokens = 5", "unknown field `context_tokens`"),
        ("free = true\nmax_output_tokens = 0", "`max_output_tokens`"),
        ('free = true\nretires_on = "soon"', "`retires_on`"),
        ('free = true\nretires_on = "2026-02-30"', "`retires_on`"),
        ('free = true\nmarkup = "0"', "markup: 0 is no believable ratio"),
        ('free = true\nmarkup = "-1.2"', "markup: negative"),
        (
            'free = true\nmarkup = "1"\n'
            'sell = { usd_per_million_input_tokens = "1", usd_per_million_output_tokens = "1" }',
            "sell and markup: one or the other",
        ),
        ('free = true\nsell = { usd_per_million_input_tokens = "1" }', "sell: unpriced"),
        (
            'free = true\n[offer.sell]\nusd_per_minute = "1"\n'
            'usd_per_million_input_tokens = "1"\nusd_per_million_output_tokens = "1"',
            "sell: usd_per_minute: not a unit",
        ),
        ('free = true\nsizes = ["1024"]', "'1024' is no size"),
        ('free = true\nsizes = ["99999x10"]', "'99999x10' is no size"),
        ('free = true\ndefault_size = "0x10"', "'0x10' is no size"),
        ("free = true\npriced_steps = 8", "priced_steps: means something for pictures only"),
        ('free = true\nsizes = ["8x8", "8x8"]', "sizes: 8x8 stands there 2 times"),
        ('free = true\nsizes = ["8x8"]\ndefault_size = "9x9"', "default_size: 9x9 is not among sizes"),
        ("free = true\nseconds = [10, 5]", "seconds: want each length once, shortest first"),
        ("free = true\nseconds = [5]\ndefault_seconds = 6", "default_seconds: 6 is not among seconds"),
        ("free = true\nrounds_seconds_up = true", "rounds_seconds_up: means nothing without seconds"),
        ('free = true\nqualities = ["a"]\nquality_map = { hd = "b" }', "quality_map.hd: b is not among qualities"),
        (
            'usd_per_million_input_tokens = "1"\nusd_per_million_output_tokens = "1"\n'
            'long_context = { above_tokens = 10, price = { usd_per_million_input_tokens = "2" } }',
            "long_context.price: unpriced",
        ),
    ],
)
def test_a_bad_offer_stops_the_start_with_file_line_and_reason(tmp_path: Path, row: str, reason: str) -> None:
    text = (
        f'{GOOD_MODEL}\n# a comment\n[[offer]]\nmodel = "acme/foo"\nprovider = "alpha"\nupstream_model = "x"\n{row}\n'
    )
    (problem,) = problems(tmp_path, text)
    assert problem.startswith("0.toml:6: offer ")
    assert reason in problem


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (
            (GOOD_MODEL + GOOD_OFFER.replace("alpha", "gamma"),),
            ["0.toml:4: offer gamma:foo-1: unknown provider 'gamma'"],
        ),
        ((GOOD_MODEL + GOOD_OFFER, GOOD_OFFER), ["1.toml:1: offer alpha:foo-1: stands already at "]),
        ((GOOD_MODEL + GOOD_OFFER, "\n" + GOOD_MODEL), ["1.toml:2: model acme/foo: stands already at "]),
        ((GOOD_MODEL,), ["0.toml:1: model acme/foo: no offer serves it"]),
        ((GOOD_OFFER,), ["0.toml:1: offer alpha:foo-1: no [[model]] row has the id 'acme/foo'"]),
        (
            (GOOD_MODEL.replace("chat", "chatter") + GOOD_OFFER,),
            ["0.toml:1: model acme/foo: unknown operation 'chatter', want one of chat, image, video,"],
        ),
        ((GOOD_MODEL + 'inputs = ["smell"]\n' + GOOD_OFFER,), ["0.toml:1: model acme/foo: 'smell' is no modality"]),
        (
            (GOOD_MODEL + "released_on = 2026-01-02\nretires_on = 2026-01-01\n" + GOOD_OFFER,),
            ["0.toml:1: model acme/foo: retires_on is before released_on"],
        ),
        ((GOOD_MODEL + 'id2 = "x"\n' + GOOD_OFFER,), ["0.toml:1: model acme/foo: Object contains unknown field `id2`"]),
        ((GOOD_MODEL.replace("acme/foo", "a b") + GOOD_OFFER,), ["0.toml:1: model a b: "]),
        ((GOOD_MODEL + GOOD_OFFER + "[[offers]]\n",), ["0.toml: unknown table 'offers'"]),
        ((GOOD_MODEL + GOOD_OFFER + "tools = yes\n",), ["0.toml:10: cannot be read: "]),
        (
            ("model = 5\n" + GOOD_OFFER,),
            ["0.toml: model: want [[model]] rows", "0.toml:2: offer alpha:foo-1: no [[mod"],
        ),
    ],
)
def test_what_is_wrong_between_rows_and_files(tmp_path: Path, texts: tuple[str, ...], expected: list[str]) -> None:
    found = problems(tmp_path, *texts)
    # A row that cannot be read leaves the others pointing at nothing; those faults are said too.
    for want in expected:
        assert any(problem.startswith(want) for problem in found), found


@pytest.mark.parametrize("alias", ["acme/foo", "ACME/FOO", "bar", "BAR", "acme/bar"])
def test_a_name_belongs_to_one_model(tmp_path: Path, alias: str) -> None:
    foo = GOOD_MODEL + f'aliases = ["{alias}"]\n' + GOOD_OFFER
    bar = (GOOD_MODEL + 'aliases = ["bar"]\n' + GOOD_OFFER).replace("acme/foo", "acme/bar").replace("foo-1", "bar-1")
    (problem,) = problems(tmp_path, bar, foo)
    assert "is already a name of acme/" in problem


def test_all_faults_of_all_files_are_reported_together(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        GOOD_MODEL + GOOD_OFFER.replace('"0.15"', '"-0.15"').replace('"0.60"', '"5000"'),
        GOOD_OFFER.replace("alpha", "nobody").replace("foo-1", "foo-2") + "\n[[offer]]\nmodel = 5\n",
        '[[model]]\nid = "acme/lonely"\noperation = "image"\n',
        "not toml",
    )
    assert sorted(problem.split(" ")[0] for problem in found) == [
        "0.toml:4:",
        "0.toml:4:",
        "1.toml:1:",
        "1.toml:8:",
        "2.toml:1:",
        "3.toml:1:",
    ]


def test_a_directory_that_holds_nothing_is_no_catalogue(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="no models here"):
        load_catalogue([tmp_path], providers=PROVIDERS)
