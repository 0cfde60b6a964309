from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from longtail import settings
from longtail.settings import Settings
from schemas.errors import SettingsError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / settings.FILE).write_text(settings.template())
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / settings.FILE).write_text(text)


def test_the_template_names_every_key_with_its_default(folder: Path) -> None:
    assert settings.load(folder) == Settings()
    content = yaml.safe_load(settings.template())
    assert set(content) == set(Settings.model_fields)
    assert set(content["mining"]) == set(type(Settings().mining).model_fields)
    for line in settings.template().splitlines():
        assert not line or "#" in line or line.endswith(":"), line


def test_flags_win_over_variables_over_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "batch_size: 4\nmining: {budget: 10, neighbours: 7}\n")
    assert settings.load(folder).batch_size == 4

    monkeypatch.setenv("LONGTAIL_BATCH_SIZE", "5")
    monkeypatch.setenv("LONGTAIL_MINING__BUDGET", "3%")
    loaded = settings.load(folder)
    assert (loaded.batch_size, loaded.mining.budget, loaded.mining.neighbours) == (5, "3%", 7)

    loaded = settings.load(folder, {"batch_size": 6, "mining": {"budget": "9"}})
    assert (loaded.batch_size, loaded.mining.budget, loaded.mining.neighbours) == (6, "9", 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encodr: x", "unknown setting 'encodr'; known are encoder, "),
        ("mining: {budgt: 3}", "unknown setting 'mining.budgt'"),
        ("batch_size: zero", "batch_size is 'zero'"),
        ("device: gpu", "device is 'gpu': a device is auto, cpu, cuda or cuda:N"),
        ("precision: int8", "precision is 'int8'"),
        ("mining: {budget: 0.5}", "mining.budget is 0.5: a budget is a count"),
        ("mining: {detector: knn9}", "detector 'knn9' is none of combined, knn"),
        ("mining: {budget: 120%}", "mining.budget is '120%': a budget is a count"),
        ("limits: {max_rejected_share: 2}", "limits.max_rejected_share is 2"),
        ("- 1", "must hold 'key: value' lines, not a list"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_mistake_names_the_key_the_value_and_the_file(
    folder: Path, text: str, message: str
) -> None:
    write(folder, text)
    with pytest.raises(SettingsError) as error:
        settings.load(folder)
    assert message in str(error.value)
    assert str(folder / settings.FILE) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_variable_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_WORKERS", "many")
    with pytest.raises(SettingsError, match="LONGTAIL_WORKERS: workers is 'many'"):
        settings.load(folder)


@pytest.mark.parametrize("name", ["MINING", "RUNNER_OPTIONS"])
def test_a_variable_for_a_whole_section_holds_json(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"LONGTAIL_{name}", "abc")
    with pytest.raises(SettingsError, match=f"LONGTAIL_{name} is 'abc'; write a JSON object"):
        settings.load(folder)


def test_variables_set_sections_and_options(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_MINING", '{"neighbours": 9}')
    monkeypatch.setenv("LONGTAIL_RUNNER_OPTIONS", '{"flink_master": "host:8081"}')
    loaded = settings.load(folder)
    assert loaded.mining.neighbours == 9
    assert loaded.runner_options == {"flink_master": "host:8081"}


def test_a_wrong_flag_is_not_blamed_on_the_file(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"^unknown setting 'minng'; known are encoder"):
        settings.load(folder, {"minng": {"budget": 3}})


def test_workers_by_default_are_the_cores_of_this_machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings.load(folder).worker_count >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS and Windows
    assert settings.load(folder).worker_count <= (os.cpu_count() or 1)


def test_an_unknown_variable_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAIL_WORKSPACE", "/anywhere")
    settings.load(folder)
    monkeypatch.setenv("LONGTAIL_BUDGET", "3")
    with pytest.raises(SettingsError, match="unknown variable LONGTAIL_BUDGET"):
        settings.load(folder)
