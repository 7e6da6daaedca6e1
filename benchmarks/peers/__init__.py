"""What a team would write instead of this service. Each runs in an environment of its own; see ../README.md."""
