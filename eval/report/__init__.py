"""The reproduction report: an experiment's records held against the claims of the paper."""
