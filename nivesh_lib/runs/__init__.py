"""The run directory: its layout, the session of a notebook, the leaderboard."""
