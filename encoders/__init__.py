"""Images to embeddings at three levels."""
