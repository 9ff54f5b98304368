"""Long suites that cumulate: kills, hostile sessions, rings, resources (`make soak HOURS=1`)."""
