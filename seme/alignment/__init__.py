"""SeMe's alignment: a source brought into the pivot's latent space."""
