"""What a notebook talks to: a session that loads, evaluates, shows findings and records them."""
