"""SeMe, merging by semantic alignment, and what every merge needs: reading, walking, writing."""
