"""From audio files to batches: manifests, corpora, features, tokens and the batch plan."""
