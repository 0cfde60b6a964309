"""Flags that are alike: one group in the table, one card in the report, one verdict for all."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longtail import Workspace
from schemas.errors import UsageError
from schemas.records import Flag

DETECTOR = "def colour(pool, baseline):\n    return pool.quality['saturation']\n"
"""One of a user's own: the photographs are grey, so that it flags what has colour."""


@pytest.fixture(scope="module")
def grouped(mined: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Photographs and, among them, six versions of one striped picture, each a little brighter."""
    folder = tmp_path_factory.mktemp("grouped")
    (folder / "seeing.py").write_text(DETECTOR)
    stripes = np.zeros((128, 128, 3))
    stripes[:, ::16], stripes[::8, :, 1] = (255, 0, 160), 220
    for i in range(6):
        pixels = np.clip(stripes + 3 * i, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"stripes-{i}.png")
    root = shutil.copytree(mined.root, folder / "workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        found = Workspace(root, {"mining": {"detector": "module:seeing:colour"}})
        found.run([str(folder / "*.png")])
    return Workspace(root)


@pytest.fixture
def workspace(grouped: Workspace, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(grouped.root, tmp_path / "workspace"))


def striped(workspace: Workspace) -> list[Flag]:
    return [flag for flag in workspace.flags() if "stripes" in flag.uri]


def test_alike_flags_are_one_group_with_its_medoid(grouped: Workspace) -> None:
    members = striped(grouped)
    groups = {flag.group for flag in members}
    assert len(members) == 6
    assert len(groups) == 1
    group = groups.pop()
    assert group is not None
    assert [flag for flag in grouped.flags() if flag.group == group] == members
    assert group.number == 1
    assert group.size == 6
    from_others = {
        flag.sample_id: sum(grouped.query(sample_id=flag.sample_id, k=6)["distance"].to_pylist())
        / 5
        for flag in members
    }
    assert group.medoid == min(from_others, key=from_others.__getitem__)
    assert group.spread == pytest.approx(from_others[group.medoid], rel=1e-3)


def test_the_table_and_its_json_tell_the_groups(longtail, grouped: Workspace) -> None:
    first = striped(grouped)[0]
    assert first.group is not None
    table, groups = longtail("flags", "-w", grouped.root).out.split("\n\n")
    header, _, *rows = table.splitlines()
    column = header.split().index("group")
    row = next(row for row in rows if first.sample_id[:12] in row)
    assert row.split()[column] == "1"
    assert re.search(rf"^ +1 +6 +0\.\d\d +{first.group.medoid[:12]}", groups, re.MULTILINE)
    assert f"longtail verdict {first.group.medoid[:12]} VERDICT --group" in groups
    told = longtail("flags", "-w", grouped.root, "--json").json
    assert [flag["group"] for flag in told if "stripes" in flag["uri"]] == [
        {"number": 1, "size": 6, "medoid": first.group.medoid, "spread": first.group.spread}
    ] * 6
    alone = [flag for flag in told if flag["group"] is None]
    assert alone


def test_one_verdict_is_on_all_of_a_group(longtail, workspace: Workspace) -> None:
    members = {flag.sample_id for flag in striped(workspace)}
    alone = next(flag.sample_id for flag in workspace.flags() if flag.group is None)
    told = longtail("verdict", "-w", workspace.root, min(members), "junk", "--group")
    assert told.out.startswith("6 recorded as junk by ")
    given = workspace.verdicts.latest()
    assert set(given) == members
    assert {verdict.run_id for verdict in given.values()} == {workspace.flags()[0].run_id}

    refused = longtail("verdict", "-w", workspace.root, alone, "junk", "--group")
    assert refused.code == 2
    assert f"sample {alone[:12]} is in no group of that run" in refused.err
    with pytest.raises(UsageError):
        workspace.verdict([min(members), alone], "normal", group=True)
    assert workspace.verdicts.latest() == given


def test_the_group_is_that_of_the_run_that_was_looked_at(longtail, workspace: Workspace) -> None:
    w, (first, *_) = workspace.root, striped(workspace)
    Workspace(w, {"mining": {"budget": 1}}).mine()
    assert longtail("verdict", "-w", w, first.sample_id, "junk", "--group").code == 2
    judge = ("verdict", "-w", w, first.sample_id, "junk", "--group", "--run")
    assert longtail(*judge, first.run_id).out.startswith("6 recorded")
    assert longtail(*judge, "yesterday").code == 2
    assert {given.run_id for given in workspace.verdicts.latest().values()} == {first.run_id}


def test_a_group_is_one_card_in_the_report(grouped: Workspace) -> None:
    members = striped(grouped)
    page = grouped.report()
    assert page is not None
    html = page.read_text("utf-8")
    cards = [card for card in html.split('<li class="card">') if "stripes" in card]
    assert len(cards) == 1
    assert {flag.uri for flag in members} == set(
        re.findall(r'title="([^"]*stripes[^"]*)"', cards[0])
    )
    medoid = members[0].group.medoid  # type: ignore[union-attr]
    assert f"{medoid[:10]}</code>" in cards[0]
    shown = next(flag for flag in members if flag.sample_id == medoid)
    assert shown.rank != members[0].rank
    assert f"<b>{members[0].rank}</b>" in cards[0]
    assert f"<dt>shown</dt><dd>rank {shown.rank}</dd>" in cards[0]
    assert html.count("<dt>shown</dt>") == 1
    ranks = re.findall(r"<figcaption>(\d+)</figcaption>", cards[0])
    assert ranks == [str(flag.rank) for flag in members if flag.sample_id != medoid]
    assert f"longtail verdict {medoid[:10]} junk --group --run {members[0].run_id}" in html


def test_a_group_goes_on_without_its_forgotten_medoid(workspace: Workspace) -> None:
    group = striped(workspace)[0].group
    assert group is not None
    workspace.forget([group.medoid])
    left = striped(workspace)
    now = {flag.group for flag in left}.pop()
    assert now is not None
    assert (len(left), now.size) == (5, 5)
    assert now.medoid in {flag.sample_id for flag in left}
    assert group.medoid[:10] not in workspace.report().read_text("utf-8")  # type: ignore[union-attr]
