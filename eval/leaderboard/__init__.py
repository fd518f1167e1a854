"""Boards of runs as Markdown, CSV, terminal tables, one HTML page and figures."""
