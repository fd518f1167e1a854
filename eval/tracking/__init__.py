"""Mirror of records and leaderboards in Weights & Biases."""
