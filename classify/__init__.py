"""Stage 2: train, compare and keep classifiers on cached embeddings."""
