"""Embeddings at rest: immutable FAISS segments, snapshots that name them, and exact answers.

    CURRENT -> snapshot-7.json -> segment-<id>.vectors.faiss, segment-<id>.ids.npy, ...

Nothing that a reader may hold is ever rewritten. A segment is written once, a snapshot names the
segments that count, and replacing CURRENT publishes it. `index.store.IndexStore` is the door.
"""
