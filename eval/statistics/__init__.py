"""Statistics over documents: errors, paired tests, rank bands, metrics, selection hygiene."""
