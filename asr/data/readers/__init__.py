"""Readers: corpora in the layouts that users have on disk, one file per layout, turned into manifests once."""
