"""More load than a server can do."""
