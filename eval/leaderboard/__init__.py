"""The leaderboard as one HTML page, and its figures."""
