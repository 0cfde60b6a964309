"""Standing queries: each run tells what matches them anew, flagged or not.

triggers/<name>.json holds the examples of one and what matched it so far, with the run that told.
A verdict on a match, told of or not, teaches: an edge case is one more positive example, `normal`
and `junk` are negative ones and match no more, `duplicate` says nothing. An example stays what it
was given as in spite of verdicts. To a trigger made from a text all of these tell only how far to
reach.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from longtail import runs
from schemas.catalog import Catalog
from schemas.errors import EncoderError, NotFoundError, UsageError
from schemas.records import Verdict

if TYPE_CHECKING:
    from detectors.triggers import Trigger
    from index.search import Snapshot

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_SAYS_NO = ("normal", "junk")

SKIPPED = "skipped_triggers"
"""In metrics.json: the names of those that are of another encoder than the run's."""


@dataclass(frozen=True, slots=True)
class StandingQuery:
    """A trigger as it was asked for, bound to an encoder's fingerprint.

    positive, negative: sample ids. text: an example in words instead, words_vector (d,) its
    embedding. matched: what runs have told of, sample id to run id.
    """

    name: str
    encoder_id: str
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    text: str | None = None
    words_vector: tuple[float, ...] = ()
    matched: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """A sample that matches, at a distance in [0, 2] from the nearest positive example."""

    sample_id: str
    distance: float


def add(
    catalog: Catalog, query: StandingQuery, embed: Callable[[str], NDArray[np.float32]]
) -> StandingQuery:
    """Keep a new trigger, its text embedded by `embed` to (d,); what is kept.

    Raises UsageError for a name that is none or is taken, and for examples that do not go together.
    """
    if bool(query.positive) == (query.text is not None):
        raise UsageError("a trigger is made from samples (--from) or from a text (--text)")
    if query.text is not None and query.negative:
        raise UsageError("a trigger made from a text learns from verdicts; leave out --not")
    _check_examples(query.name, query.positive, query.negative)
    if not _NAME.fullmatch(query.name):
        raise UsageError(
            f"'{query.name}' cannot name a trigger; take letters, digits, '-', '_' and '.', "
            "a letter or digit first, 100 at most"
        )
    _check_new(catalog, query.name)  # before words are embedded, which takes seconds
    if query.text is not None:
        query = replace(query, words_vector=tuple(embed(query.text).tolist()))
    with _changing(catalog):
        _check_new(catalog, query.name)
        _save(catalog, query)
    return query


def teach(
    catalog: Catalog,
    name: str,
    encoder_id: str,
    positive: Sequence[str],
    negative: Sequence[str],
) -> StandingQuery:
    """Add examples to a trigger; one that it has on the other side changes sides.

    Raises NotFoundError, EncoderError for a trigger of another encoder, UsageError for no examples
    and for one on both sides.
    """
    if not positive and not negative:
        raise UsageError(f"what shall trigger '{name}' learn? give samples by --from or --not")
    _check_examples(name, positive, negative)
    with _changing(catalog):
        query = _of_encoder(named(catalog, name), encoder_id)
        query = replace(
            query,
            positive=_joined(query.positive, positive, without=negative),
            negative=_joined(query.negative, negative, without=positive),
        )
        _save(catalog, query)
    return query


def read(catalog: Catalog) -> list[StandingQuery]:
    """All triggers, by name."""
    paths = sorted(catalog.triggers.glob("*.json"))
    found = [StandingQuery(**json.loads(path.read_text("utf-8"))) for path in paths]
    return [
        replace(query, positive=tuple(query.positive), negative=tuple(query.negative))
        for query in found
    ]


def named(catalog: Catalog, name: str) -> StandingQuery:
    """One trigger. Raises NotFoundError."""
    there = {query.name: query for query in read(catalog)}
    if name not in there:
        raise NotFoundError(f"no trigger '{name}'; there are: {', '.join(there) or 'none'}")
    return there[name]


def remove(catalog: Catalog, name: str) -> None:
    """Ask no longer. Raises NotFoundError."""
    with _changing(catalog):
        catalog.trigger(named(catalog, name).name).unlink()


def forget(catalog: Catalog, sample_ids: Collection[str]) -> None:
    """Take samples out of examples and matches."""
    gone = set(sample_ids)
    with _changing(catalog):
        for query in read(catalog):
            if gone & {*query.positive, *query.negative, *query.matched}:
                _save(catalog, _without(query, gone))


def _without(query: StandingQuery, gone: Collection[str]) -> StandingQuery:
    return replace(
        query,
        positive=tuple(one for one in query.positive if one not in gone),
        negative=tuple(one for one in query.negative if one not in gone),
        matched={one: run for one, run in query.matched.items() if one not in gone},
    )


def record_new(
    catalog: Catalog,
    run_id: str,
    snapshot: Snapshot,
    encoder_id: str,
    verdicts: Mapping[str, Verdict],
) -> list[str]:
    """Note what matches the triggers of this encoder and did not before; names of the others.

    The newest report goes where there is any, to be written anew with it.
    """
    queries = read(catalog)
    others = [query.name for query in queries if query.encoder_id != encoder_id]
    if len(others) == len(queries):
        return others
    rows = snapshot.live_rows()
    vectors = snapshot.read(rows)

    def record(name: str) -> bool:
        """Whether anything was new. Reads the trigger again: it may be taught or gone by now."""
        with _changing(catalog):
            query = next((one for one in read(catalog) if one.name == name), None)
            if query is None or query.encoder_id != encoder_id:
                return False
            hits = _matches(query, snapshot, rows, vectors, verdicts)
            new = [match.sample_id for match in hits if match.sample_id not in query.matched]
            if new:
                matched = {**query.matched, **dict.fromkeys(new, run_id)}
                _save(catalog, replace(query, matched=matched))
            return bool(new)

    found = [record(query.name) for query in queries if query.name not in others]
    newest = runs.newest_mining_run(catalog)
    if any(found) and newest:
        (catalog.run(newest) / runs.REPORT).unlink(missing_ok=True)
    return others


def matches(
    query: StandingQuery, snapshot: Snapshot, encoder_id: str, verdicts: Mapping[str, Verdict]
) -> list[Match]:
    """What matches now, nearest first, without the examples themselves; none without examples.

    Raises EncoderError for a trigger of another encoder.
    """
    query, rows = _of_encoder(query, encoder_id), snapshot.live_rows()
    return _matches(query, snapshot, rows, snapshot.read(rows), verdicts)


def new_matches(catalog: Catalog, run_id: str, since: bool = False) -> dict[str, list[str]]:
    """Sample ids by trigger that a run told of, nearest first; `since`: that run or a later one."""
    found = {
        query.name: [
            one for one, run in query.matched.items() if run == run_id or (since and run > run_id)
        ]
        for query in read(catalog)
    }
    return {name: new for name, new in found.items() if new}


def told(catalog: Catalog, run_id: str, flagged: Collection[str], since: bool = False) -> list[str]:
    """What a run found anew, one line a trigger, and which triggers it could not ask.

    since: found by that run or a later one.
    """
    lines = []
    for name, new in new_matches(catalog, run_id, since).items():
        known = len(set(new) & set(flagged))
        count = f"{len(new):,} new {'match' if len(new) == 1 else 'matches'}"
        lines.append(f"trigger {name}: {count}, {known:,} of them flagged")
    skipped = runs.metrics(catalog, run_id).get(SKIPPED)
    if skipped:
        lines.append(
            f"skipped as triggers of another encoder: {', '.join(skipped)}; remove these and add "
            "them again"
        )
    return lines


def _of_encoder(query: StandingQuery, encoder_id: str) -> StandingQuery:
    if query.encoder_id != encoder_id:
        raise EncoderError(
            f"trigger '{query.name}' is of encoder {query.encoder_id}, this is {encoder_id}; "
            "remove it and add it again"
        )
    return query


def _check_examples(name: str, positive: Sequence[str], negative: Sequence[str]) -> None:
    both = sorted(set(positive) & set(negative))
    if both:
        raise UsageError(
            f"sample {both[0][:12]} cannot be what trigger '{name}' means and what it does not; "
            "give it by --from or by --not"
        )


def _joined(
    examples: Sequence[str], more: Sequence[str], *, without: Sequence[str]
) -> tuple[str, ...]:
    return tuple(one for one in dict.fromkeys([*examples, *more]) if one not in without)


def _matches(
    query: StandingQuery,
    snapshot: Snapshot,
    rows: NDArray[np.int64],
    vectors: NDArray[np.float32],
    verdicts: Mapping[str, Verdict],
) -> list[Match]:
    trigger = _learned(query, snapshot, verdicts, vectors)
    if trigger is None:
        return []
    distance = trigger.distance(vectors)
    inside = np.flatnonzero(distance <= trigger.reach)
    inside = inside[np.argsort(distance[inside], kind="stable")]
    no = {one for one, given in verdicts.items() if given.label in _SAYS_NO}
    left_out = no.union(query.positive, query.negative)
    ids = snapshot.sample_ids.take(rows[inside])
    pairs = zip(ids, distance[inside].tolist(), strict=True)
    return [Match(sample_id, gap) for sample_id, gap in pairs if sample_id not in left_out]


def _learned(
    query: StandingQuery,
    snapshot: Snapshot,
    verdicts: Mapping[str, Verdict],
    vectors: NDArray[np.float32],
) -> Trigger | None:
    """The trigger as its examples and the verdicts on its matches, old and new, make it."""
    from detectors.triggers import learn, learn_from_words  # with scikit-learn, 90 MB

    examples = {*query.positive, *query.negative}
    judged = {one: given.label for one, given in verdicts.items() if one not in examples}

    def learned(heard: Collection[str]) -> Trigger | None:
        yes = [one for one in heard if judged[one] == "edge_case"]
        no = [one for one in heard if judged[one] in _SAYS_NO]
        positive = _stored(snapshot, [*query.positive, *yes])
        negative = _stored(snapshot, [*query.negative, *no])
        if query.text is not None:
            words = np.array([query.words_vector], dtype=np.float32)
            return learn_from_words(words, positive, negative, vectors)
        return learn(positive, negative, vectors) if len(positive) else None

    told_of = [one for one in judged if one in query.matched]
    trigger = learned(told_of)
    others = [one for one in judged if one not in query.matched]
    rows = snapshot.sample_ids.rows(others)
    others = [others[i] for i in np.flatnonzero(rows >= 0)]
    if trigger is None or not others:
        return trigger
    matching = np.flatnonzero(trigger.matches(_stored(snapshot, others)))
    return learned([*told_of, *(others[i] for i in matching)]) if len(matching) else trigger


def _stored(snapshot: Snapshot, sample_ids: Sequence[str]) -> NDArray[np.float32]:
    rows = snapshot.sample_ids.rows(sample_ids)
    return snapshot.read(rows[rows >= 0])


@contextmanager
def _changing(catalog: Catalog) -> Iterator[None]:
    """Nobody else changes triggers meanwhile: a person may teach one while a run tells of it."""
    catalog.triggers.mkdir(exist_ok=True)
    with FileLock(catalog.triggers / ".lock"):
        yield


def _check_new(catalog: Catalog, name: str) -> None:
    if catalog.trigger(name).exists():
        raise UsageError(
            f"there is a trigger '{name}' already; take another name, or "
            f"'longtail trigger remove {name}' first; 'longtail trigger teach "
            f"{name}' gives it more examples"
        )


def _save(catalog: Catalog, query: StandingQuery) -> None:
    runs.write_json(catalog.trigger(query.name), asdict(query))
