"""Alignment of SeMe: map a source model into the pivot's latent space."""
