"""Configurations of mergekit, read and turned into runs."""
