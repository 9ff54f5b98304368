"""One room a venue: what its wire says and what its rules are. Add a venue by adding a room."""
