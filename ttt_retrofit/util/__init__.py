"""Helpers that know no other package: files, checksums, fingerprints, texts, messages."""
