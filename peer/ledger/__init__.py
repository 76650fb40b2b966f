"""State, versions and history: what a simulation reads and a commit writes."""
