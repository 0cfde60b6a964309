"""FAISS segments and snapshots, and search over them."""
