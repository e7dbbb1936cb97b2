"""A model that nobody knows is named where a key is made for it, and the key is made all the same."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Run, json_of

KNOWN = "openai/gpt-oss-120b"


def test_unknown_models_of_a_new_key_are_named(run: Run) -> None:
    run("account", "create", "acme")
    for unknown in (("--bound-model", "openai/gpt-os-120b"), ("--allow-model", "openai/gpt-os-120b")):
        made = run("key", "create", "--json", *unknown)
        assert json_of(made)["id"].startswith("key_")
        assert "no model is called 'openai/gpt-os-120b'" in made.stderr
    assert run("key", "create", "--json", "--bound-model", KNOWN, "--allow-model", KNOWN).stderr == ""


def test_unknown_models_of_a_changed_key_are_named(run: Run) -> None:
    run("account", "create", "acme")
    key_id = json_of(run("key", "create", "--json"))["id"]
    changed = run("key", "change", key_id, "--json", "--allow-model", "nobodys", "--allow-model", KNOWN.upper())
    assert json_of(changed)["allowed_models"] == sorted(["nobodys", KNOWN.upper()])
    assert changed.stderr.count("no model is called") == 2, "capital letters count"
    for more in (["--allow-model", "none"], ["--bound-model", KNOWN], ["--name", "x"]):
        assert run("key", "change", key_id, *more).stderr == ""


def test_a_catalogue_that_cannot_be_read_is_not_this_commands_matter(run: Run, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "broken.toml").write_text("[[model")
    config = tmp_path / "x.toml"
    config.write_text(f'[catalogue]\ndir = "{models}"\n')
    run("account", "create", "acme")
    made = run("key", "create", "--json", "--bound-model", "nobodys", "--config", str(config))
    assert json_of(made)["id"].startswith("key_")
    assert made.stderr == ""
