"""Standing queries, from the command that makes one to the run that tells its matches."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from index.search import Snapshot
from longtail import Workspace, triggers
from schemas.errors import EncoderError
from schemas.records import VerdictLabel


@pytest.fixture
def example(workspace: Workspace) -> str:
    flagged = {flag.sample_id for flag in workspace.flags()}
    ids = workspace.catalog.samples.read(["sample_id"])["sample_id"].to_pylist()
    return min(set(ids) - flagged)


def bright_copy(workspace: Workspace, sample_id: str, path: Path) -> str:
    """Another file of what the sample shows."""
    samples = workspace.catalog.samples.read(["sample_id", "uri"]).to_pylist()
    uri = next(row["uri"] for row in samples if row["sample_id"] == sample_id)
    with Image.open(uri) as image:
        image.convert("RGB").resize((280, 280)).save(path, quality=90)
    return str(path)


def test_a_run_tells_its_new_matches_once(
    longtail, workspace: Workspace, example: str, tmp_path: Path
) -> None:
    w = workspace.root
    near = workspace.query(sample_id=example, k=2)["sample_id"].to_pylist()[1]
    added = longtail("trigger", "add", "like-this", "-w", w, "--from", example[:12], near)
    assert added.code == 0, added.err
    told = longtail("run", "-w", w, bright_copy(workspace, example, tmp_path / "copy.jpg"))
    copy = workspace.query(tmp_path / "copy.jpg", k=1)["sample_id"][0].as_py()
    line = next(line for line in told.out.splitlines() if "trigger like-this: " in line)
    shown = longtail("trigger", "show", "like-this", "-w", w, "--json").json
    assert copy in [match["sample_id"] for match in shown]
    assert example not in [match["sample_id"] for match in shown]
    assert f": {len(shown)} new match{'es' * (len(shown) > 1)}, " in line
    assert line.removeprefix("note: ") in workspace.report().read_text("utf-8")  # type: ignore[union-attr]
    assert "trigger like-this" not in longtail("mine", "-w", w, "--budget", 5).out
    listed = longtail("trigger", "list", "-w", w, "--json").json
    assert set(listed[0]["matched"]) == {match["sample_id"] for match in shown}


def test_an_older_run_still_tells_what_it_told(workspace: Workspace) -> None:
    first = Workspace(workspace.root, {"mining": {"budget": 9}})
    first.mine()
    flagged = [flag.sample_id for flag in first.flags(top=9)]
    pairs = [
        first.query(sample_id=each, k=2, within=1)["sample_id"].to_pylist() for each in flagged
    ]
    alike = next(pair[:1] for pair in pairs if pair[-1] in flagged and len(pair) == 2)
    workspace.triggers.add("strange", alike)
    first = Workspace(workspace.root, {"mining": {"budget": 10}})
    first.mine()
    run_id, told = first.flags()[0].run_id, first.notes()
    assert any("of them flagged" in line and " 0 of them" not in line for line in told)
    Workspace(workspace.root, {"mining": {"budget": 8}}).mine()
    assert workspace.notes(run_id) == told
    workspace.triggers.remove("strange")
    workspace.triggers.add("strange", alike)
    again = Workspace(workspace.root, {"mining": {"budget": 8}}).mine()  # nothing new but matches
    assert any(" 0 of them" not in line for line in workspace.notes(again.run_id))


def test_verdicts_on_matches_teach(workspace: Workspace, example: str) -> None:
    near = workspace.query(sample_id=example, k=6)["sample_id"].to_pylist()
    workspace.triggers.add("wide", [near[0], near[5]])
    workspace.mine()
    before = [match.sample_id for match in workspace.triggers.matches("wide")]
    assert before
    workspace.verdict(before[-1:], "normal")
    after = [match.sample_id for match in workspace.triggers.matches("wide")]
    assert before[-1] not in after
    workspace.verdict(before[-1:], "edge_case")
    assert set(before) <= {match.sample_id for match in workspace.triggers.matches("wide")}


@pytest.mark.parametrize("label", ["normal", "junk"])
def test_what_a_verdict_rejects_is_no_match(
    workspace: Workspace, example: str, label: VerdictLabel
) -> None:
    near = workspace.query(sample_id=example, k=6)["sample_id"].to_pylist()
    workspace.triggers.add("before", [near[0], near[5]])
    *_, rejected = [match.sample_id for match in workspace.triggers.matches("before")]
    workspace.verdict([rejected], label)
    workspace.triggers.add("after", [near[0], near[5]])
    for name in ("before", "after"):
        assert rejected not in {match.sample_id for match in workspace.triggers.matches(name)}
    workspace.mine()
    assert all(
        query.matched and rejected not in query.matched for query in workspace.triggers.all()
    )


def test_a_verdict_on_what_no_run_told_of_teaches_too(workspace: Workspace, example: str) -> None:
    near = workspace.query(sample_id=example, k=6)["sample_id"].to_pylist()
    workspace.triggers.add("wide", [near[0], near[5]])
    before = [match.sample_id for match in workspace.triggers.matches("wide")]
    workspace.verdict(before[-1:], "edge_case")
    workspace.triggers.add("taught", [near[0], near[5], before[-1]])
    taught, told = (
        {match.sample_id for match in workspace.triggers.matches(name)}
        for name in ("taught", "wide")
    )
    assert told == {*taught, before[-1]} != set(before)


def test_examples_may_be_given_together_or_one_by_one(
    longtail, workspace: Workspace, example: str
) -> None:
    w, near = workspace.root, workspace.query(sample_id=example, k=5)["sample_id"].to_pylist()
    for number, words in enumerate(
        (
            ("--from", near[0], near[1], "--not", near[3], near[4]),
            ("--from", near[0], f"--not={near[3]}", near[4], "--from", near[1], near[0][:12]),
            ("--not", near[3], "--from", near[0], near[1], "--not", near[4]),
        )
    ):
        added = longtail("trigger", "add", f"odd-{number}", "-w", w, *words)
        assert added.code == 0, added.err
        made = longtail("trigger", "list", "-w", w, "--json").json[number]
        assert (made["positive"], made["negative"]) == (near[:2], near[3:])


def test_more_examples_teach(longtail, workspace: Workspace, example: str) -> None:
    w, near = workspace.root, workspace.query(sample_id=example, k=6)["sample_id"].to_pylist()

    def taught(*words: str) -> tuple[list[str], list[str], set[str]]:
        told = longtail("trigger", "teach", "odd", "-w", w, *words)
        assert told.code == 0, told.err
        (made,) = longtail("trigger", "list", "-w", w, "--json").json
        shown = longtail("trigger", "show", "odd", "-w", w, "--json").json
        assert told.out.startswith(f"trigger odd: {len(shown):,} matching now")
        return made["positive"], made["negative"], {match["sample_id"] for match in shown}

    workspace.triggers.add("odd", near[:2])
    positive, _, wide = taught("--from", near[5], near[1][:12])
    assert positive == [near[0], near[1], near[5]]
    assert 0 < len(wide) <= len(positive)  # a thousandth of the pool for each, one sample here
    wrong, more = min(wide), next(each for each in near[2:5] if each != min(wide))
    positive, negative, narrow = taught("--not", near[5], wrong)
    assert (positive, negative) == (near[:2], [near[5], wrong])
    assert len(narrow) <= len(positive)
    assert not narrow & {near[5], wrong}
    workspace.mine()
    workspace.verdict([more], "normal")
    positive, negative, told = taught("--from", more, wrong)
    assert (positive, negative) == ([*near[:2], more, wrong], [near[5]])
    workspace.triggers.add("same", positive, unlike=negative)
    matching = {match.sample_id for match in workspace.triggers.matches("same")}
    assert told == matching != set()  # whatever the verdict said


def test_what_is_not_meant_makes_no_trigger_match_more(workspace: Workspace, example: str) -> None:
    *_, farthest = workspace.query(sample_id=example, k=90)["sample_id"].to_pylist()
    for name, examples in (("one", [example]), ("unlike", [example, farthest])):
        workspace.triggers.add(name, examples)
        before = {match.sample_id for match in workspace.triggers.matches(name)}
        assert 0 < len(before) <= len(examples)
        foreign = next(flag.sample_id for flag in workspace.flags()[::-1])
        workspace.triggers.teach(name, unlike=[foreign])
        assert {match.sample_id for match in workspace.triggers.matches(name)} <= before


def test_what_a_person_does_during_a_run_stays(
    workspace: Workspace, example: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = workspace.query(sample_id=example, k=60)["sample_id"].to_pylist()
    workspace.triggers.add("taught", near[:1])
    workspace.triggers.add("removed", near[:2])
    read = Snapshot.read

    def reading(snapshot: Snapshot, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """A run has read the triggers when it reads the vectors."""
        monkeypatch.setattr(Snapshot, "read", read)
        workspace.triggers.teach("taught", [near[40]], unlike=[near[59]])
        workspace.triggers.remove("removed")
        return read(snapshot, rows)

    monkeypatch.setattr(Snapshot, "read", reading)
    snapshot = workspace.jobs.index_store.open()
    assert snapshot is not None
    triggers.record_new(workspace.catalog, "run-1", snapshot, workspace.jobs.encoder.id, {})
    (query,) = workspace.triggers.all()
    assert (query.name, query.negative) == ("taught", (near[59],))
    assert query.positive == (near[0], near[40])
    assert (
        set(query.matched)
        == {match.sample_id for match in workspace.triggers.matches("taught")}
        != set()
    )


def test_counterexamples_and_forgotten_ones(workspace: Workspace, example: str) -> None:
    near = workspace.query(sample_id=example, k=4)["sample_id"].to_pylist()
    workspace.triggers.add("odd", near[:2], unlike=[near[2]])
    workspace.mine()
    assert near[2] not in {match.sample_id for match in workspace.triggers.matches("odd")}
    workspace.forget([near[0]])
    assert workspace.triggers.all()[0].positive == (near[1],)
    workspace.forget([near[1]])
    assert workspace.triggers.matches("odd") == []
    assert near[0] not in (workspace.root / "triggers" / "odd.json").read_text()


def test_a_trigger_of_another_encoder_is_left_alone(workspace: Workspace, example: str) -> None:
    workspace.triggers.add("odd", [example])
    path = workspace.root / "triggers" / "odd.json"
    path.write_text(path.read_text().replace(workspace.jobs.encoder.id, "other-0123456789ab"))
    with pytest.raises(EncoderError, match="trigger 'odd' is of encoder other-0123456789ab"):
        workspace.triggers.teach("odd", [example])
    run = Workspace(workspace.root, {"mining": {"budget": 4}}).mine()
    assert workspace.triggers.all()[0].matched == {}
    said = "skipped as triggers of another encoder: odd; remove these and add them again"
    assert workspace.notes().count(said) == 1
    assert said in workspace.report().read_text("utf-8")  # type: ignore[union-attr]
    shutil.rmtree(workspace.root / "triggers")
    assert workspace.notes(run.run_id)[-1] == said  # as it was then
    assert workspace.triggers.all() == []


def test_mistakes_get_one_line(longtail, workspace: Workspace, example: str) -> None:
    w = workspace.root
    workspace.triggers.add("cracks", [example])
    for arguments, message in (
        (("add", "cracks", "--from", example), "there is a trigger 'cracks' already"),
        (("add", "no/slash", "--from", example), "'no/slash' cannot name a trigger"),
        (("add", "new"), "made from samples (--from) or from a text (--text)"),
        (("add", "new", "--from", "0123456789ab"), "there is no sample whose id starts"),
        (("add", "new", "--text", "a crack"), "embeds images only, no text"),
        (("add", "new", "--from", example, "--not", example), "cannot be what trigger 'new' means"),
        (("teach", "cracks"), "what shall trigger 'cracks' learn? give samples by --from or --not"),
        (("teach", "cracks", "--not", example, "--from", example), "cannot be what"),
        (("teach", "cracks", "--not", "0123456789ab"), "there is no sample whose id starts"),
        (("teach", "none", "--from", example), "no trigger 'none'; there are: cracks"),
        (("show", "none"), "no trigger 'none'; there are: cracks"),
        (("remove", "none"), "no trigger 'none'"),
    ):
        told = longtail("trigger", *arguments, "-w", w)
        assert told.code == 2, arguments
        assert message in told.err
        assert len(told.err.splitlines()) == 1
    assert [query.name for query in workspace.triggers.all()] == ["cracks"]
    assert longtail("trigger", "remove", "cracks", "-w", w).out == "trigger cracks is removed\n"
    assert workspace.triggers.all() == []
