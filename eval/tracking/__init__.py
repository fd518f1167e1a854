"""Mirror of records and leaderboards in trackers: W&B, MLflow, TensorBoard."""
